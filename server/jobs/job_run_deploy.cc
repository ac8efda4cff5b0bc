// Deployment: what becomes of a version that a job published and an alias is to name.
#include <algorithm>
#include <optional>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/errors/errors.h"
#include "model/errors/status_proto.h"
#include "model/files/durable.h"
#include "server/jobs/job_run.h"
#include "server/store/alias_table.h"
#include "server/store/job_state.h"
#include "server/store/model_table.h"

namespace tasuki {
namespace {

// The rows on which both versions are compared.
const std::string& RowsOf(const v1::Task& task) {
  return task.test_dataset().empty() ? task.valid_dataset() : task.test_dataset();
}

// The task as `current` has it, on the job's rows; nullopt if it has other labels, or no such task.
std::optional<v1::Task> TaskToCompare(const v1::ModelVersion& current, const v1::Task& task) {
  const auto own = std::find_if(current.tasks().begin(), current.tasks().end(),
                                [&](const v1::Task& each) { return each.name() == task.name(); });
  if (own == current.tasks().end() || RowsOf(task).empty() ||
      own->labels_size() != task.labels_size()) {
    return std::nullopt;
  }
  v1::Task both;
  both.set_name(task.name());
  both.set_prefix(own->prefix());
  both.set_test_dataset(RowsOf(task));
  for (const v1::Label& label : own->labels()) {
    const auto same =
        std::find_if(task.labels().begin(), task.labels().end(),
                     [&](const v1::Label& each) { return each.name() == label.name(); });
    if (same == task.labels().end()) return std::nullopt;
    // What the model writes is its own, what the rows mean by it is the job's.
    *both.add_labels() = label;
    *both.mutable_labels(both.labels_size() - 1)->mutable_values() = same->values();
  }
  return both;
}

template <typename Evaluations>
double MacroF1(const Evaluations& evaluations, const std::string& task, bool test) {
  for (const v1::Evaluation& evaluation : evaluations) {
    if (evaluation.task() == task && evaluation.method() == v1::Evaluation::LABEL &&
        (evaluation.split() == v1::Evaluation::TEST) == test) {
      return evaluation.macro_f1();
    }
  }
  return 0;
}

}  // namespace

absl::StatusOr<std::vector<v1::Evaluation>> JobRun::Evaluate(const std::string& directory) {
  recorded_ = false;
  if (absl::Status status = RunAside("--spec", directory); !status.ok()) return status;

  if (last_event_.has_finished()) {
    const auto& evaluations = last_event_.finished().evaluations();
    return std::vector<v1::Evaluation>(evaluations.begin(), evaluations.end());
  }
  if (last_event_.has_failed()) return StatusOf(last_event_.failed());
  if (Asked(kStop)) return DrainingError();
  return absl::InternalError(absl::StrCat("its trainer ended: ", exit_.Describe()));
}

absl::StatusOr<std::vector<v1::Deployment::Comparison>> JobRun::Compare(
    const v1::ModelVersion& current) {
  v1::TrainingJob job;
  job.set_name(job_.name());
  job.set_display_name(job_.display_name());
  job.set_attempt(job_.attempt());
  job.mutable_evaluation()->set_model_version(current.name());
  job.mutable_evaluation()->set_max_input_tokens(current.max_input_tokens());
  for (const v1::Task& task : job_.fine_tuning().tasks()) {
    if (const auto both = TaskToCompare(current, task)) {
      *job.mutable_evaluation()->add_tasks() = *both;
    }
  }
  std::vector<v1::Deployment::Comparison> comparisons;
  if (job.evaluation().tasks().empty()) return comparisons;

  JobRun run(context_, job);
  {
    absl::MutexLock lock(&mutex_);
    comparison_ = &run;
    if ((asked_ & (kStop | kCancel)) != 0) run.Ask(kStop);
  }
  const auto forget = absl::MakeCleanup([this] {
    absl::MutexLock lock(&mutex_);
    comparison_ = nullptr;
  });
  const std::string directory = context_.data.job_comparison(job_.name());
  const auto evaluations = run.Evaluate(directory);
  RemoveAll(directory).IgnoreError();
  if (!evaluations.ok()) return evaluations.status();
  for (const v1::Task& task : job_.fine_tuning().tasks()) {
    const auto& compared = job.evaluation().tasks();
    if (std::none_of(compared.begin(), compared.end(),
                     [&](const v1::Task& each) { return each.name() == task.name(); })) {
      continue;
    }
    v1::Deployment::Comparison& comparison = comparisons.emplace_back();
    comparison.set_task(task.name());
    comparison.set_current_macro_f1(MacroF1(*evaluations, task.name(), /*test=*/true));
    comparison.set_candidate_macro_f1(
        MacroF1(job_.evaluations(), task.name(), !task.test_dataset().empty()));
  }
  return comparisons;
}

absl::StatusOr<v1::Deployment> JobRun::Deploy(const std::string& version) {
  v1::Deployment deployment;
  const v1::DeployOnSuccess& wish = job_.deploy_on_success();
  const std::string alias = AliasOf(job_);
  auto named = context_.store.aliases().Get(alias);
  while (MayPass(named.status()) && WaitForNextTry("read_models"))
    named = context_.store.aliases().Get(alias);
  if (MayPass(named.status())) return named.status();
  // After a restart it may be done already.
  if (named.ok() && named->model_version() != version) {
    deployment.set_previous_model_version(named->model_version());
  }
  if (wish.has_max_regression() && !deployment.previous_model_version().empty()) {
    const auto current = context_.store.models().GetVersion(deployment.previous_model_version());
    const auto comparisons = current.ok() ? Compare(*current) : current.status();
    if (Asked(kStop)) return DrainingError();
    if (!comparisons.ok()) {
      deployment.set_reason(
          absl::StrCat(deployment.previous_model_version(),
                       " could not be evaluated: ", comparisons.status().message()));
      return deployment;
    }
    deployment.mutable_comparisons()->Assign(comparisons->begin(), comparisons->end());
    for (const v1::Deployment::Comparison& each : *comparisons) {
      if (each.candidate_macro_f1() >= each.current_macro_f1() - wish.max_regression()) continue;
      deployment.set_reason(absl::StrFormat(
          "macro F1 of task %s is %.4f, that of %s is %.4f, and it may fall by %g", each.task(),
          each.candidate_macro_f1(), deployment.previous_model_version(), each.current_macro_f1(),
          wish.max_regression()));
      return deployment;
    }
  }
  absl::Status status = context_.deploy(alias, version, job_.name());
  while (absl::IsUnavailable(status) && !Asked(kCancel) && WaitForNextTry()) {
    status = context_.deploy(alias, version, job_.name());
  }
  if (absl::IsUnavailable(status) && Asked(kStop)) return status;
  deployment.set_deployed(status.ok());
  deployment.set_reason(std::string(status.message()));
  return deployment;
}

}  // namespace tasuki
