#include "client/cli/job_views.h"

#include <google/protobuf/text_format.h>

#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/cli/evaluations.h"
#include "client/cli/names.h"
#include "client/cli/table.h"
#include "client/cli/text.h"
#include "client/cli/watch_view.h"

namespace tasuki::cli {
namespace {

// The fields that are set: "epochs 4, optimizer ADAMW, early_stopping (patience 3)".
std::string FieldsOf(const google::protobuf::Message& message) {
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  return absl::StrJoin(fields, ", ", [&](std::string* out, const auto* field) {
    std::string value;
    if (field->message_type() != nullptr && !field->is_repeated()) {
      value = absl::StrCat("(", FieldsOf(message.GetReflection()->GetMessage(message, field)), ")");
    } else {
      google::protobuf::TextFormat::PrintFieldValueToString(message, field, -1, &value);
    }
    absl::StrAppend(out, field->name(), " ", value);
  });
}

Table TasksOf(const google::protobuf::RepeatedPtrField<v1::Task>& tasks) {
  Table table({"TASK", "LABELS", "WEIGHT>", "TRAIN", "VALID", "TEST"});
  for (const v1::Task& task : tasks) {
    const std::string labels = absl::StrJoin(
        task.labels(), ", ",
        [](std::string* out, const v1::Label& label) { absl::StrAppend(out, label.name()); });
    table.Add({task.name(), Shorten(labels, 40),
               task.has_weight() ? absl::StrCat(task.weight()) : "-",
               ShortName(task.train_dataset()), ShortName(task.valid_dataset()),
               ShortName(task.test_dataset())});
  }
  return table;
}

std::string WorkOf(const v1::TrainingJob& job) {
  switch (job.work_case()) {
    case v1::TrainingJob::kFineTuning:
      return absl::StrCat("fine-tuning of ", ShortName(job.fine_tuning().base_model_version()));
    case v1::TrainingJob::kPretraining:
      return absl::StrCat("pre-training, ", FieldsOf(job.pretraining().size()));
    case v1::TrainingJob::kEvaluation:
      return absl::StrCat("evaluation of ", ShortName(job.evaluation().model_version()), ", ",
                          job.evaluation().max_input_tokens(), " input tokens",
                          job.evaluation().write_predictions() ? ", keeps its predictions" : "");
    case v1::TrainingJob::WORK_NOT_SET:
      break;
  }
  return "";
}

std::string StateOf(const v1::TrainingJob& job) {
  std::string state = v1::TrainingJob::State_Name(job.state());
  if (job.state() == v1::TrainingJob::QUEUED) {
    absl::StrAppend(&state, ", ", job.queue_position(), " before it");
  }
  if (job.attempt() > 1) absl::StrAppend(&state, ", attempt ", job.attempt());
  if (job.finish_requested()) absl::StrAppend(&state, ", asked to finish");
  if (job.pause_requested()) absl::StrAppend(&state, ", asked to pause");
  return state;
}

std::string DeploymentOf(const v1::TrainingJob& job) {
  if (!job.has_deploy_on_success()) return "";
  const std::string alias =
      absl::StrCat(ShortName(job.model()), "@", job.deploy_on_success().alias());
  if (!job.has_deployment()) return absl::StrCat("to ", alias, ", once it succeeded");
  if (job.deployment().deployed()) return absl::StrCat("to ", alias);
  return absl::StrCat("not to ", alias, ": ", job.deployment().reason());
}

}  // namespace

void PrintJob(const v1::TrainingJob& job) {
  const bool runs = job.state() == v1::TrainingJob::RUNNING;
  std::cout << Details(
      {{"name", job.name()},
       {"display name", job.display_name()},
       {"state", StateOf(job)},
       {"progress", runs ? ProgressText(job.progress()) : ""},
       {"work", WorkOf(job)},
       {"recipe",
        FieldsOf(job.has_pretraining() ? job.pretraining().recipe() : job.fine_tuning().recipe())},
       {"model", ShortName(job.model_version().empty() ? job.model() : job.model_version())},
       {"deployment", DeploymentOf(job)},
       {"best step", job.best_step() > 0 ? Count(job.best_step()) : ""},
       {"created", DateTime(job.create_time())},
       {"started", job.has_start_time() ? DateTime(job.start_time()) : ""},
       {"ended", job.has_end_time() ? DateTime(job.end_time()) : ""},
       {"error", job.error().message()}});
  const Table tasks =
      TasksOf(job.has_evaluation() ? job.evaluation().tasks() : job.fine_tuning().tasks());
  if (!tasks.empty()) std::cout << "\n" << tasks.ToString();
  PrintFigures(job);
}

void PrintFigures(const v1::TrainingJob& job) {
  for (const std::string& table :
       {EvaluationTable(job.evaluations()), CalibrationTable(job.calibrations())}) {
    if (!table.empty()) std::cout << "\n" << table;
  }
}

absl::Status PrintJobsJson(const std::vector<v1::TrainingJob>& jobs) {
  v1::ListTrainingJobsResponse all;
  for (const auto& job : jobs) *all.add_training_jobs() = job;
  return PrintJson(all);
}

}  // namespace tasuki::cli
