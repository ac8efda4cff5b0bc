// `tasuki job submit` and `tasuki job watch`.
#include <unistd.h>

#include <iostream>
#include <map>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "client/cli/job_file.h"
#include "client/cli/job_views.h"
#include "client/cli/names.h"
#include "client/cli/text.h"
#include "client/cli/watch_view.h"
#include "client/errors.h"

namespace tasuki::cli {
namespace {

// OK if the job succeeded, otherwise why not.
absl::Status OutcomeOf(const v1::TrainingJob& job) {
  const std::string state = v1::TrainingJob::State_Name(job.state());
  switch (job.state()) {
    case v1::TrainingJob::SUCCEEDED:
      return absl::OkStatus();
    case v1::TrainingJob::FAILED:
      return Annotate(job.error().code() != 0 ? StatusOf(job.error())
                                              : absl::UnknownError("the server did not say why"),
                      absl::StrCat(job.name(), " FAILED: "));
    case v1::TrainingJob::CANCELLED:
      return absl::CancelledError(absl::StrCat(job.name(), " was cancelled"));
    default:
      return absl::UnavailableError(
          absl::StrCat("the watch of ", job.name(), " ended while it is ", state));
  }
}

enum class Show { kEvents, kEventsAsJson, kNothing };

// Follows a job to its end and answers it as it ended.
absl::StatusOr<v1::TrainingJob> Follow(Client& client, const Session& session,
                                       const std::string& name, int64_t from, Show show) {
  absl::Status output;
  int64_t next = from;
  absl::Status watched;
  {
    WatchView::Options options;
    if (IsTerminal(STDOUT_FILENO)) options.columns = [] { return TerminalColumns(STDOUT_FILENO); };
    WatchView view(std::cout, options);
    watched = client.WatchTrainingJob(
        name, from,
        [&](const v1::TrainingJobEvent& event) {
          next = event.sequence() + 1;
          if (show == Show::kEvents) view.Show(event);
          if (show == Show::kEventsAsJson) output.Update(PrintJsonLine(event));
        },
        [&](const absl::Status& lost) {
          if (show == Show::kEvents)
            view.Note(absl::StrCat("connection lost, trying again: ", lost.message()));
        });
  }
  if (!watched.ok()) {
    if (session.stop.stop_requested()) {
      std::cerr << "The job goes on. Come back with: tasuki job watch " << ShortName(name)
                << " --from " << next << "\n";
    }
    return watched;
  }
  if (!output.ok()) return output;
  return client.GetTrainingJob(name);
}

// The end of a watch for people.
void PrintEnd(const v1::TrainingJob& job) {
  PrintFigures(job);
  if (!job.model_version().empty()) {
    std::cout << "\n" << job.name() << " made " << job.model_version() << "\n";
  }
  std::cout << std::flush;
}

struct Submit {
  std::string file;
  std::vector<std::string> set;
  std::string id;
  std::string request_id;
  bool wait = false;
  bool validate_only = false;
};

absl::Status RunSubmit(Client& client, const Session& session, const Submit& submit,
                       const std::map<std::string, std::string>& variables) {
  auto job = ReadJobFile(submit.file, variables);
  if (!job.ok()) return job.status();
  v1::CreateTrainingJobRequest request;
  *request.mutable_training_job() = *std::move(job);
  request.set_training_job_id(submit.id);
  request.set_request_id(submit.request_id);
  request.set_validate_only(submit.validate_only);
  const auto created = client.CreateTrainingJob(std::move(request));
  if (!created.ok()) return created.status();

  if (submit.validate_only || !submit.wait) {
    if (session.json()) return PrintJson(*created);
    if (submit.validate_only) {
      std::cout << "The job is valid. With every default filled in:\n";
      PrintJob(*created);
      return absl::OkStatus();
    }
    std::cout << created->name() << " is " << v1::TrainingJob::State_Name(created->state())
              << "\nWatch it with: tasuki job watch " << ShortName(created->name()) << "\n";
    return absl::OkStatus();
  }
  return AwaitJob(client, session, *created).status();
}

}  // namespace

absl::StatusOr<v1::TrainingJob> AwaitJob(Client& client, const Session& session,
                                         const v1::TrainingJob& job) {
  if (!session.json()) std::cout << job.name() << "\n" << std::flush;
  auto ended =
      Follow(client, session, job.name(), 1, session.json() ? Show::kNothing : Show::kEvents);
  if (!ended.ok()) return ended.status();
  if (!session.json()) {
    PrintEnd(*ended);
  } else if (absl::Status status = PrintJson(*ended); !status.ok()) {
    return status;
  }
  if (absl::Status status = OutcomeOf(*ended); !status.ok()) return status;
  return ended;
}

void AddSubmitCommand(CLI::App& job, Session& session) {
  CLI::App* command =
      job.add_subcommand("submit", "Submits a training job described in a YAML or JSON file")
          ->footer(
              "The file has the fields of TrainingJob in tasuki/v1/training.proto; ${NAME} in it\n"
              "stands for a variable of --set or of the environment.\n"
              "Example: tasuki job submit --file single-task.yaml --set TRAIN=d-0123456789abcdef "
              "--wait");
  auto submit = std::make_shared<Submit>();
  command->add_option("--file", submit->file, "The job")->required();
  command->add_option("--set", submit->set, "NAME=VALUE of a variable in the file; repeatable")
      ->allow_extra_args(false);
  command->add_option("--id", submit->id, "Id of the job (default: made by the server)");
  command->add_option("--request-id", submit->request_id,
                      "The same id and file submitted again answer the same job "
                      "(default: a new UUID each time)");
  command->add_flag("--wait", submit->wait, "Watch the job; fail unless it succeeds");
  command->add_flag("--validate-only", submit->validate_only, "Only check; submit nothing");
  command->callback([submit, &session] {
    const auto variables = VariablesOf(submit->set);
    if (!variables.ok()) throw CLI::ValidationError(std::string(variables.status().message()));
    session.action = [submit, variables = *variables, &session](Client& client) {
      return RunSubmit(client, session, *submit, variables);
    };
  });
}

void AddWatchCommand(CLI::App& job, Session& session) {
  CLI::App* command =
      job.add_subcommand("watch",
                         "Shows what happens to a job until it has ended; fails unless it "
                         "succeeds")
          ->footer("Ctrl-C ends the watch, not the job.\nExample: tasuki job watch nightly");
  auto name = std::make_shared<std::string>();
  auto from = std::make_shared<int64_t>(1);
  command->add_option("JOB", *name, "The job")->required()->transform(Typed(JobName));
  command->add_option("--from", *from, "First event wanted (default: 1, the beginning)")
      ->check(CLI::PositiveNumber);
  session.Bind(command, [name, from, &session](Client& client) -> absl::Status {
    const auto ended =
        Follow(client, session, *name, *from, session.json() ? Show::kEventsAsJson : Show::kEvents);
    if (!ended.ok()) return ended.status();
    if (!session.json()) PrintEnd(*ended);
    return OutcomeOf(*ended);
  });
}

}  // namespace tasuki::cli
