// The `tasuki` command.
#pragma once

#include <stop_token>

namespace tasuki::cli {

// Exit codes beside Interrupts::kExitCode.
inline constexpr int kOk = 0;       // what was asked for happened
inline constexpr int kFailure = 1;  // it did not; stderr says why
inline constexpr int kUsage = 2;    // the command line is wrong; nothing was done

// Runs one command line and answers the exit code. Once `stop` is requested, the command ends.
int Run(int argc, char** argv, std::stop_token stop);

}  // namespace tasuki::cli
