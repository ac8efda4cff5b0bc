// Running a program and waiting for its end.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tasuki {

struct ProgramEnd {
  int exit_code = -1;  // -1 if a signal ended it
  int signal = 0;      // that ended it; 0 for none
  std::string output;  // the last 4 KiB of standard output and standard error
};

// Runs the program `name` that lies beside this one, or in `bin` beside it, as build trees have it.
// It inherits nothing but the environment. NOT_FOUND, UNAVAILABLE.
absl::StatusOr<ProgramEnd> RunProgram(const std::string& name,
                                      const std::vector<std::string>& arguments);

}  // namespace tasuki
