#include <iostream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "client/cli/commands.h"
#include "client/cli/evaluations.h"
#include "client/cli/job_views.h"
#include "client/cli/names.h"
#include "client/cli/table.h"
#include "client/cli/text.h"

namespace tasuki::cli {
namespace {

// A verb on one job.
CLI::App* AddNamed(CLI::App& job, const std::string& verb, const std::string& what,
                   std::string& name) {
  CLI::App* command = job.add_subcommand(verb, what)
                          ->footer(absl::StrCat("Example: tasuki job ", verb, " nightly"));
  command->add_option("JOB", name, "The job")->required()->transform(Typed(JobName));
  return command;
}

void AddGet(CLI::App& job, Session& session) {
  auto name = std::make_shared<std::string>();
  session.Bind(AddNamed(job, "get", "Shows a job with its final evaluations", *name),
               [name, &session](Client& client) -> absl::Status {
                 const auto answer = client.GetTrainingJob(*name);
                 if (!answer.ok()) return answer.status();
                 if (session.json()) return PrintJson(*answer);
                 PrintJob(*answer);
                 return absl::OkStatus();
               });
}

void AddList(CLI::App& job, Session& session) {
  CLI::App* command = job.add_subcommand("list", "Lists the jobs, newest first")
                          ->footer("Example: tasuki job list --state running --state queued");
  auto states = std::make_shared<std::vector<std::string>>();
  command->add_option("--state", *states, "Only jobs in this state; repeatable")
      ->allow_extra_args(false)
      ->transform(CLI::IsMember(
          {"QUEUED", "RUNNING", "PAUSED", "CANCELLING", "SUCCEEDED", "FAILED", "CANCELLED"},
          CLI::ignore_case));
  session.Bind(command, [states, &session](Client& client) -> absl::Status {
    std::vector<v1::TrainingJob::State> wanted(states->size());
    for (size_t i = 0; i < wanted.size(); ++i) {
      v1::TrainingJob::State_Parse((*states)[i], &wanted[i]);
    }
    const auto answer = client.ListTrainingJobs(wanted);
    if (!answer.ok()) return answer.status();
    if (session.json()) return PrintJobsJson(*answer);
    Table table({"JOB", "NAME", "STATE", "STEPS>", "MODEL", "CREATED"});
    for (const auto& row : *answer) {
      const auto& result = row.has_evaluation()          ? row.evaluation().model_version()
                           : row.model_version().empty() ? row.model()
                                                         : row.model_version();
      table.Add(
          {ShortName(row.name()), row.display_name(), v1::TrainingJob::State_Name(row.state()),
           absl::StrCat(Count(row.progress().step()), "/", Count(row.progress().total_steps())),
           ShortName(result), DateTime(row.create_time())});
    }
    std::cout << table.ToString();
    return absl::OkStatus();
  });
}

// Cancel, pause, resume, finish, retry: a method that answers the job.
void AddChange(CLI::App& job, Session& session, const std::string& verb, const std::string& what,
               absl::StatusOr<v1::TrainingJob> (Client::*method)(const std::string&)) {
  auto name = std::make_shared<std::string>();
  session.Bind(AddNamed(job, verb, what, *name),
               [name, verb, method, &session](Client& client) -> absl::Status {
                 const auto answer = (client.*method)(*name);
                 if (!answer.ok()) return answer.status();
                 if (session.json()) return PrintJson(*answer);
                 const bool running = answer->state() == v1::TrainingJob::RUNNING;
                 std::cout << answer->name() << " is "
                           << v1::TrainingJob::State_Name(answer->state());
                 if (running && verb == "pause") {
                   std::cout << (answer->has_evaluation()
                                     ? " and was asked to pause; resumed, it begins anew"
                                     : " and was asked to write a checkpoint and pause");
                 } else if (answer->finish_requested() && verb == "finish") {
                   std::cout << " and was asked to finish";
                 }
                 std::cout << "\n";
                 return absl::OkStatus();
               });
}

void AddLogs(CLI::App& job, Session& session) {
  auto name = std::make_shared<std::string>();
  auto lines = std::make_shared<int>(100);
  CLI::App* command =
      AddNamed(job, "logs", "Shows the last lines that the job's trainers printed", *name);
  command->add_option("--lines", *lines, "How many (default: 100)")->check(CLI::Range(1, 10000));
  session.Bind(command, [name, lines, &session](Client& client) -> absl::Status {
    const auto log = client.GetTrainingJobLog(*name, *lines);
    if (!log.ok()) return log.status();
    if (session.json()) {
      v1::GetTrainingJobLogResponse answer;
      for (const auto& line : *log) answer.add_lines(line);
      return PrintJson(answer);
    }
    for (const auto& line : *log) std::cout << Printable(line) << "\n";
    return absl::OkStatus();
  });
}

void AddCompare(CLI::App& job, Session& session) {
  CLI::App* command =
      job.add_subcommand("compare", "Shows the final evaluations of several jobs side by side")
          ->footer("Example: tasuki job compare multi-task amcd-only marc-only");
  auto names = std::make_shared<std::vector<std::string>>();
  command->add_option("JOBS", *names, "The jobs")->required()->transform(Typed(JobName));
  session.Bind(command, [names, &session](Client& client) -> absl::Status {
    std::vector<v1::TrainingJob> jobs;
    for (const auto& name : *names) {
      auto answer = client.GetTrainingJob(name);
      if (!answer.ok()) return answer.status();
      if (answer->evaluations().empty()) {
        return absl::FailedPreconditionError(
            absl::StrCat(name, " has no final evaluations: it is ",
                         v1::TrainingJob::State_Name(answer->state())));
      }
      jobs.push_back(*std::move(answer));
    }
    if (session.json()) return PrintJobsJson(jobs);
    std::cout << ComparisonTable(jobs);
    return absl::OkStatus();
  });
}

void AddPredictions(CLI::App& job, Session& session) {
  auto name = std::make_shared<std::string>();
  auto file = std::make_shared<std::string>();
  CLI::App* command =
      job.add_subcommand("predictions", "Writes the answers that an evaluation kept into a file")
          ->footer(
              "JSON Lines: task, row of the dataset, right label, predicted label, probabilities, "
              "truncated.\n"
              "Example: tasuki job predictions nightly answers.jsonl");
  command->add_option("JOB", *name, "The job")->required()->transform(Typed(JobName));
  command->add_option("FILE", *file, "Where to write them")->required();
  session.Bind(command, [name, file, &session](Client& client) -> absl::Status {
    const absl::Status status =
        client.DownloadPredictions(*name, *file, ShowTransfer("downloading"));
    if (!status.ok()) return status;
    if (session.json()) return PrintJson(google::protobuf::Empty());
    std::cout << "the predictions of " << *name << " are in " << *file << "\n";
    return absl::OkStatus();
  });
}

void AddDelete(CLI::App& job, Session& session) {
  auto name = std::make_shared<std::string>();
  session.Bind(AddNamed(job, "delete", "Deletes an ended job; the model that it made stays", *name),
               [name, &session](Client& client) -> absl::Status {
                 if (absl::Status status = client.DeleteTrainingJob(*name); !status.ok()) {
                   return status;
                 }
                 if (session.json()) return PrintJson(google::protobuf::Empty());
                 std::cout << "deleted " << *name << "\n";
                 return absl::OkStatus();
               });
}

}  // namespace

void AddJobCommands(CLI::App& app, Session& session) {
  CLI::App* job = app.add_subcommand("job", "Training jobs")->require_subcommand(1);
  AddSubmitCommand(*job, session);
  AddEstimateCommand(*job, session);
  AddList(*job, session);
  AddGet(*job, session);
  AddWatchCommand(*job, session);
  AddLogs(*job, session);
  AddCompare(*job, session);
  AddPredictions(*job, session);
  AddChange(*job, session, "cancel", "Ends a job before its time", &Client::CancelTrainingJob);
  AddChange(*job, session, "pause", "Lets a job write a checkpoint and wait",
            &Client::PauseTrainingJob);
  AddChange(*job, session, "resume", "Queues a paused job again", &Client::ResumeTrainingJob);
  AddChange(*job, session, "finish", "Ends the training now and publishes the best so far",
            &Client::FinishTrainingJob);
  AddChange(*job, session, "retry", "Queues a failed job again; it goes on from its checkpoint",
            &Client::RetryTrainingJob);
  AddDelete(*job, session);
}

}  // namespace tasuki::cli
