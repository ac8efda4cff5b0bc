// What `tasuki-trainer` does: trains one attempt of a job, estimates what a job would need, or
// checks a model directory.
#pragma once

#include <string>

namespace tasuki {

// "0.1.0".
const char* TrainerVersion();

// Trains as the internal.TrainerSpec at `spec_path` says, telling the server over the channels of
// channels.h and people on standard output. Answers the exit code.
int TrainJob(const std::string& spec_path);

// Sends `estimate`, or `failed`, over the same channels. The specification's job directory is a
// scratch place. Ends itself after 15 minutes, by SIGALRM. Answers the exit code.
int EstimateJob(const std::string& spec_path);

// Opens a model directory as a stranger's. Prints its number of weights and answers 0, or prints
// the reason on standard error and answers kExitData.
int CheckDirectory(const std::string& directory);

}  // namespace tasuki
