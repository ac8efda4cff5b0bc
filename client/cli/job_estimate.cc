// `tasuki job estimate`.
#include <iostream>
#include <map>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "client/cli/job_file.h"
#include "client/cli/job_views.h"
#include "client/cli/table.h"
#include "client/cli/text.h"

namespace tasuki::cli {
namespace {

using Response = v1::EstimateTrainingJobResponse;

absl::Duration DurationOf(const google::protobuf::Duration& duration) {
  return absl::Seconds(duration.seconds()) + absl::Nanoseconds(duration.nanos());
}

void PrintEstimate(const Response& estimate) {
  const auto& memory = estimate.memory();
  const absl::Duration training = DurationOf(estimate.training_duration());
  const absl::Duration evaluation = DurationOf(estimate.evaluation_duration());
  const bool measured = estimate.measured_steps() > 0;
  std::cout << Details(
      {{"steps", Count(estimate.steps())},
       {"examples", Count(estimate.examples())},
       {"input tokens", absl::StrCat(Count(estimate.input_tokens()), ", at most ",
                                     Count(estimate.longest_input_tokens()), " in one")},
       {"target tokens", Count(estimate.target_tokens())},
       {"peak memory", Bytes(memory.peak_bytes())},
       {"of it", absl::StrCat("weights ", Bytes(memory.weights_bytes()), ", gradients ",
                              Bytes(memory.gradients_bytes()), ", optimizer ",
                              Bytes(memory.optimizer_bytes()), ", activations ",
                              Bytes(memory.activations_bytes()), ", program and data ",
                              Bytes(memory.program_bytes()))},
       {"time", measured ? absl::StrCat(Span(training + evaluation), ": training ", Span(training),
                                        ", evaluations ", Span(evaluation))
                         : "unknown"},
       {"speed", measured ? absl::StrFormat("%.0f tokens/s over %d steps",
                                            estimate.tokens_per_second(), estimate.measured_steps())
                          : ""}});
  for (const std::string& note : estimate.notes()) std::cout << "\n" << Printable(note) << "\n";
}

}  // namespace

void AddEstimateCommand(CLI::App& job, Session& session) {
  CLI::App* command =
      job.add_subcommand("estimate",
                         "Tells what a job would need before it is submitted: steps, tokens, "
                         "memory and time, measured by a few of its steps")
          ->footer("Example: tasuki job estimate --file job.yaml --set TRAIN=d-0123456789abcdef");
  auto file = std::make_shared<std::string>();
  auto set = std::make_shared<std::vector<std::string>>();
  command->add_option("--file", *file, "The job, as of tasuki job submit")->required();
  command->add_option("--set", *set, "NAME=VALUE of a variable in the file; repeatable")
      ->allow_extra_args(false);
  command->callback([file, set, &session] {
    const auto variables = VariablesOf(*set);
    if (!variables.ok()) throw CLI::ValidationError(std::string(variables.status().message()));
    session.action = [file, variables = *variables, &session](Client& client) -> absl::Status {
      auto job = ReadJobFile(*file, variables);
      if (!job.ok()) return job.status();
      v1::EstimateTrainingJobRequest request;
      *request.mutable_training_job() = *std::move(job);
      const auto answer = client.EstimateTrainingJob(request);
      if (!answer.ok()) return answer.status();
      if (session.json()) return PrintJson(*answer);
      PrintEstimate(*answer);
      return absl::OkStatus();
    };
  });
}

}  // namespace tasuki::cli
