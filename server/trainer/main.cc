// tasuki-trainer: the child process that trains one job, or opens one stranger's model directory.

#include <cstdio>
#include <string>

#include "CLI/CLI.hpp"
#include "server/trainer/channels.h"
#include "server/trainer/trainer.h"

int main(int argc, char** argv) {
  CLI::App app(
      "Trains one attempt of a job for tasukid, estimates what a job needs, or checks a model "
      "directory.",
      "tasuki-trainer");
  std::string spec, estimate, directory;
  auto* what = app.add_option_group("what", "What to do");
  what->add_option("--spec", spec,
                   "Train as this file (internal.TrainerSpec as JSON) says. Commands come on "
                   "standard input, events go to file descriptor 3")
      ->check(CLI::ExistingFile);
  what->add_option("--estimate", estimate,
                   "Tell what the job of such a file would need: one event on file descriptor 3")
      ->check(CLI::ExistingFile);
  what->add_option(
          "--check", directory,
          "Open a model directory, print its number of weights; exit code 65 and the reason "
          "on standard error if a file is malformed")
      ->check(CLI::ExistingDirectory);
  what->require_option(1);
  app.set_version_flag("--version", std::string("tasuki-trainer ") + tasuki::TrainerVersion());
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : tasuki::kExitUsage;
  }
  if (!directory.empty()) return tasuki::CheckDirectory(directory);
  return estimate.empty() ? tasuki::TrainJob(spec) : tasuki::EstimateJob(estimate);
}
