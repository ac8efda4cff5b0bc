#include "server/jobs/job_check.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "model/files/safetensors.h"
#include "model/recipe/recipe.h"
#include "model/text/label_trie.h"
#include "model/text/tokenizer.h"
#include "server/store/dataset_table.h"
#include "server/store/model_table.h"

namespace tasuki {
namespace {

constexpr int kBaseInputTokens = 512;  // of a version that says nothing itself

// The checks of one job; stops at an error of the store.
class JobCheck {
 public:
  JobCheck(Store& store, const DataDirectory& data, Faults& faults)
      : store_(store), data_(data), faults_(faults) {}

  absl::Status CheckFineTuning(v1::FineTuning& work) {
    const auto base =
        FindVersion("fine_tuning.base_model_version", *work.mutable_base_model_version());
    if (!base.ok()) return base.status();
    if (base->has_value() && work.has_lora()) {
      absl::Status status = CheckTargets(**base, work.lora());
      if (!status.ok()) return status;
    }
    for (int i = 0; i < work.tasks_size(); ++i) {
      const v1::Task& task = work.tasks(i);
      const std::string field = absl::StrCat("fine_tuning.tasks[", i, "]");
      for (const auto& [member, dataset] : {std::pair("train_dataset", task.train_dataset()),
                                            std::pair("valid_dataset", task.valid_dataset()),
                                            std::pair("test_dataset", task.test_dataset())}) {
        absl::Status status = CheckDataset(absl::StrCat(field, ".", member), dataset, &task);
        if (!status.ok()) return status;
      }
      CheckLabels(field, task);
    }
    return absl::OkStatus();
  }

  absl::Status CheckEvaluation(v1::EvaluationJob& work) {
    const auto version = FindVersion("evaluation.model_version", *work.mutable_model_version());
    if (!version.ok()) return version.status();
    if (version->has_value() && !work.has_max_input_tokens()) {
      const bool known = !(*version)->tasks().empty();
      work.set_max_input_tokens(known ? (*version)->max_input_tokens() : kBaseInputTokens);
    }
    for (int i = 0; i < work.tasks_size(); ++i) {
      v1::Task& task = *work.mutable_tasks(i);
      const std::string field = absl::StrCat("evaluation.tasks[", i, "]");
      if (version->has_value()) CompleteTask(field, **version, task);
      absl::Status status = CheckDataset(field + ".test_dataset", task.test_dataset(),
                                         task.labels().empty() ? nullptr : &task);
      if (!status.ok()) return status;
      CheckLabels(field, task);
    }
    return absl::OkStatus();
  }

  absl::Status CheckPretraining(const v1::Pretraining& work) {
    for (int i = 0; i < work.datasets_size(); ++i) {
      const std::string field = absl::StrCat("pretraining.datasets[", i, "]");
      absl::Status status = CheckDataset(field, work.datasets(i), nullptr);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

 private:
  static absl::Status Lost(const v1::ModelVersion& version, const std::string& file) {
    return MakeError(absl::StatusCode::kDataLoss, v1::FILE_CHANGED,
                     absl::StrCat(version.name(), " has lost its ", file));
  }

  // The version that `name` stands for, whose tokenizer is loaded; `name` becomes that version's.
  // nullopt after a fault.
  absl::StatusOr<std::optional<v1::ModelVersion>> FindVersion(const std::string& field,
                                                              std::string& name) {
    if (!absl::StartsWith(name, "models/")) return std::nullopt;  // ResolveJob says so
    const auto version = store_.models().GetVersion(name);
    if (absl::IsNotFound(version.status()) || absl::IsInvalidArgument(version.status())) {
      faults_.Add(field, absl::StrCat(name,
                                      " does not exist; import or pre-train a model first, or "
                                      "name one that ListModels shows"));
      return std::nullopt;
    }
    if (!version.ok()) return version.status();
    name = version->name();
    auto tokenizer = Tokenizer::Load(data_.model_version(version->name()) + "/spiece.model");
    if (absl::IsNotFound(tokenizer.status())) return Lost(*version, "spiece.model");
    if (!tokenizer.ok()) return Annotate(tokenizer.status(), absl::StrCat(version->name(), ": "));
    tokenizer_ = *std::move(tokenizer);
    return *version;
  }

  // Whether the base has weights for every module that gets an adapter.
  absl::Status CheckTargets(const v1::ModelVersion& base, const v1::Lora& lora) {
    std::set<std::string> missing(lora.target_modules().begin(), lora.target_modules().end());
    for (const v1::ModelFile& file : base.files()) {
      if (!absl::EndsWith(file.name(), ".safetensors")) continue;
      const auto weights =
          SafetensorsFile::Open(absl::StrCat(data_.model_version(base.name()), "/", file.name()));
      if (absl::IsNotFound(weights.status())) return Lost(base, file.name());
      if (!weights.ok()) return Annotate(weights.status(), absl::StrCat(base.name(), ": "));
      std::erase_if(missing, [&](const std::string& module) {
        const auto& tensors = (*weights)->tensors();
        return std::any_of(tensors.begin(), tensors.end(), [&](const auto& tensor) {
          return absl::EndsWith(tensor.first, absl::StrCat(".", module, ".weight"));
        });
      });
    }
    for (const std::string& module : missing) {
      faults_.Add("fine_tuning.lora.target_modules",
                  absl::StrCat(base.name(), " has no module ", Quote(module)));
    }
    return absl::OkStatus();
  }

  // Labels and prefix that were not given are those of the version's task of that name.
  void CompleteTask(const std::string& field, const v1::ModelVersion& version, v1::Task& task) {
    const auto own = std::find_if(version.tasks().begin(), version.tasks().end(),
                                  [&](const v1::Task& each) { return each.name() == task.name(); });
    const bool has = own != version.tasks().end();
    if (!task.has_prefix()) task.set_prefix(has ? own->prefix() : "");
    if (!task.labels().empty()) return;
    if (has) {
      *task.mutable_labels() = own->labels();
      return;
    }
    const std::string names = absl::StrJoin(
        version.tasks(), ", ",
        [](std::string* out, const v1::Task& each) { absl::StrAppend(out, each.name()); });
    faults_.Add(field + ".labels",
                absl::StrCat("are needed: ", version.name(), " has no task ", Quote(task.name()),
                             names.empty() ? "" : "; it has ", names));
  }

  // `task` is null where labels do not matter.
  absl::Status CheckDataset(const std::string& field, const std::string& name,
                            const v1::Task* task) {
    // Only names of the right form: ResolveJob has words for the others, and knows what is
    // required.
    if (!IsResourceId(absl::StripPrefix(name, "datasets/"))) return absl::OkStatus();
    const auto dataset = store_.datasets().Get(name);
    if (absl::IsNotFound(dataset.status()) || absl::IsInvalidArgument(dataset.status())) {
      faults_.Add(field, absl::StrCat(name,
                                      " does not exist; upload it first, or name one that "
                                      "ListDatasets shows"));
      return absl::OkStatus();
    }
    if (!dataset.ok()) return dataset.status();
    if (task == nullptr) return absl::OkStatus();
    if (!dataset->labelled()) {
      faults_.Add(field, absl::StrCat(name, " has texts only; upload it with a label column"));
      return absl::OkStatus();
    }
    CheckValues(field, *dataset, *task);
    return absl::OkStatus();
  }

  // Of a dataset of more than 100 label values only the most frequent are known here; the trainer
  // looks at every row.
  void CheckValues(const std::string& field, const v1::Dataset& dataset, const v1::Task& task) {
    std::vector<std::string> unknown;
    for (const v1::Dataset::LabelCount& count : dataset.label_counts()) {
      if (LabelOfValue(task, count.value()) >= 0) continue;
      unknown.push_back(absl::StrCat(Quote(count.value()), " (", count.row_count(), " rows)"));
    }
    if (unknown.empty()) return;
    faults_.Add(field, absl::StrCat(dataset.name(), " holds label values that no label of task ",
                                    task.name(), " means; add them to the values of a label: ",
                                    absl::StrJoin(unknown, ", ")));
  }

  void CheckLabels(const std::string& field, const v1::Task& task) {
    if (tokenizer_ == nullptr || task.labels_size() < 2) return;
    const absl::Status status = LabelTrie::Build(task, *tokenizer_).status();
    if (!status.ok()) faults_.Add(field + ".labels", status.message());
  }

  Store& store_;
  const DataDirectory& data_;
  Faults& faults_;
  std::unique_ptr<Tokenizer> tokenizer_;  // of the version; null if there is none
};

}  // namespace

absl::Status CheckJob(Store& store, const DataDirectory& data, v1::TrainingJob& job,
                      Faults& faults) {
  JobCheck check(store, data, faults);
  if (job.has_fine_tuning()) return check.CheckFineTuning(*job.mutable_fine_tuning());
  if (job.has_pretraining()) return check.CheckPretraining(job.pretraining());
  if (job.has_evaluation()) return check.CheckEvaluation(*job.mutable_evaluation());
  return absl::OkStatus();
}

}  // namespace tasuki
