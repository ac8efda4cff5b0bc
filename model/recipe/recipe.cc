#include "model/recipe/recipe.h"

#include <algorithm>
#include <set>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "model/recipe/field_checker.h"
#include "model/recipe/version_name.h"

namespace tasuki {
namespace {

constexpr int kMaxTasks = 16;
constexpr int kMaxEvaluations = 100;  // two methods for each task, and to spare
constexpr size_t kMaxNameCharacters = 63;
constexpr size_t kMaxTextCharacters = 256;  // of a prefix or target text
constexpr int kMaxValues = 1000;            // of a label
constexpr size_t kMaxValueBytes = 1 << 10;
constexpr int kMaxRequiredTexts = 1000;
// Of the tasks or the required texts of a job, which goes into every answer about it.
constexpr size_t kMaxWorkBytes = 512 << 10;

// Of a Lora; the linear parts of transformers' T5.
constexpr absl::string_view kTargetModules[] = {"q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"};

size_t Characters(absl::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

// C0, DEL and C1.
bool HasControls(absl::string_view text) {
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte < 0x20 || byte == 0x7F) return true;
    if (byte == 0xC2 && i + 1 < text.size() && (text[i + 1] & 0xE0) == 0x80) return true;
  }
  return false;
}

// A name for people: `low` to 63 characters, none of them a control character.
bool CheckName(const FieldChecker& check, absl::string_view field, absl::string_view name,
               size_t low) {
  const size_t characters = Characters(name);
  if (characters < low || characters > kMaxNameCharacters) {
    check.Add(field, absl::StrCat("has ", characters, " characters; ", low, " to ",
                                  kMaxNameCharacters, " are allowed"));
    return false;
  }
  if (HasControls(name)) check.Add(field, "has control characters");
  return true;
}

void CheckText(const FieldChecker& check, absl::string_view field, absl::string_view text) {
  if (const size_t characters = Characters(text); characters > kMaxTextCharacters) {
    check.Add(field, absl::StrCat("has ", characters, " characters; ", kMaxTextCharacters,
                                  " are allowed"));
  }
}

void CheckBytes(const FieldChecker& check, absl::string_view field, size_t bytes, size_t limit) {
  if (bytes <= limit) return;
  check.Add(field, absl::StrCat("has ", WithCommas(static_cast<int64_t>(bytes)), " bytes; ",
                                WithCommas(static_cast<int64_t>(limit)), " are allowed"));
}

bool IsIdOf(absl::string_view id, size_t max_bytes, absl::string_view inner) {
  const auto alphanumeric = [](char c) { return absl::ascii_islower(c) || absl::ascii_isdigit(c); };
  return !id.empty() && id.size() <= max_bytes && absl::ascii_islower(id.front()) &&
         alphanumeric(id.back()) && std::all_of(id.begin(), id.end(), [&](char c) {
           return alphanumeric(c) || inner.find(c) != absl::string_view::npos;
         });
}

bool IsTaskName(absl::string_view name) { return IsIdOf(name, 32, "_-"); }

void CheckModelOrVersion(const FieldChecker& check, absl::string_view field,
                         const std::string& name) {
  if (IsModelName(name) || VersionName::Parse(name)) return;
  check.Add(field,
            absl::StrCat(Quote(name),
                         " is not of the form models/{id} or models/{id}/versions/{number}"));
}

void CheckDataset(const FieldChecker& check, absl::string_view field, const std::string& name) {
  absl::string_view id = name;
  if (!absl::ConsumePrefix(&id, "datasets/") || !IsResourceId(id)) {
    check.Add(field, absl::StrCat(Quote(name), " is not of the form datasets/{id}"));
  }
}

// Puts a preset's values under those that the recipe gives.
void ResolvePreset(v1::Recipe& recipe, bool pretraining, const FieldChecker& check) {
  if (recipe.preset() == v1::Recipe::PRESET_UNSPECIFIED) recipe.set_preset(v1::Recipe::RECOMMENDED);
  check.Known("preset", recipe.preset(), v1::Recipe::Preset_IsValid(recipe.preset()));
  if (recipe.preset() != v1::Recipe::STUDY) return;
  if (pretraining) return check.Add("preset", "STUDY is a way of fine-tuning");
  v1::Recipe study;
  if (!recipe.has_steps()) study.set_epochs(4);
  if (!recipe.has_batch_tokens()) study.set_batch_size(8);
  study.set_max_input_tokens(512);
  study.set_optimizer(v1::Recipe::ADAMW);
  study.set_learning_rate(3e-4);
  study.set_weight_decay(0);
  study.set_schedule(v1::Recipe::CONSTANT);
  study.set_warmup_steps(0);
  study.set_max_gradient_norm(0);
  study.set_dropout(0.1);
  study.set_seed(12);
  study.set_selection(v1::Recipe::LAST);
  study.mutable_habits()->set_first_task_weight(true);
  study.mutable_habits()->set_count_padding(true);
  study.mutable_habits()->set_teacher_forced(true);
  study.MergeFrom(recipe);
  recipe = study;
}

void ResolveBatch(v1::Recipe& recipe, bool pretraining, const FieldChecker& check) {
  if (recipe.has_batch_tokens()) {
    check.Integer("batch_tokens", recipe.batch_tokens(), 1, 4'194'304);
    if (recipe.has_batch_size()) {
      check.Add("batch_size", "is given together with batch_tokens: give one of them");
    }
  } else {
    if (!recipe.has_batch_size()) recipe.set_batch_size(pretraining ? 32 : 8);
    check.Integer("batch_size", recipe.batch_size(), 1, 4096);
  }
  if (!recipe.has_gradient_accumulation_steps()) recipe.set_gradient_accumulation_steps(1);
  check.Integer("gradient_accumulation_steps", recipe.gradient_accumulation_steps(), 1, 1024);
  if (!recipe.has_max_input_tokens()) {
    recipe.set_max_input_tokens(pretraining ? 128 : kDefaultInputTokens);
  }
  check.Integer("max_input_tokens", recipe.max_input_tokens(), kMinInputTokens, kMaxInputTokens);
}

// When the training is judged, by what, and when it ends before its last step.
void ResolveSelection(v1::Recipe& recipe, const FieldChecker& check) {
  if (!recipe.has_evaluate_every_steps()) recipe.set_evaluate_every_steps(0);
  check.AtLeastZero("evaluate_every_steps", recipe.evaluate_every_steps());
  if (recipe.evaluate_every_steps() == 0 && !recipe.has_evaluate_every_epochs()) {
    recipe.set_evaluate_every_epochs(1);
  }
  if (recipe.has_evaluate_every_epochs()) {
    check.Integer("evaluate_every_epochs", recipe.evaluate_every_epochs(), 1, 1000);
    if (recipe.evaluate_every_steps() > 0) {
      check.Add("evaluate_every_epochs",
                "is given together with evaluate_every_steps: give one of them");
    }
  }
  if (recipe.selection() == v1::Recipe::SELECTION_UNSPECIFIED) {
    recipe.set_selection(v1::Recipe::MACRO_F1);
  }
  check.Known("selection", recipe.selection(), v1::Recipe::Selection_IsValid(recipe.selection()));
  if (recipe.selection_over_tasks() == v1::Recipe::SELECTION_OVER_TASKS_UNSPECIFIED) {
    recipe.set_selection_over_tasks(v1::Recipe::MEAN);
  }
  check.Known("selection_over_tasks", recipe.selection_over_tasks(),
              v1::Recipe::SelectionOverTasks_IsValid(recipe.selection_over_tasks()));
  if (recipe.has_time_limit() && recipe.time_limit().seconds() < 1) {
    check.Add("time_limit", "is below 1 s");
  }
  if (!recipe.has_early_stopping()) return;
  v1::Recipe::EarlyStopping& early = *recipe.mutable_early_stopping();
  const FieldChecker at = check.At("early_stopping");
  if (!early.has_patience()) early.set_patience(3);
  at.Integer("patience", early.patience(), 1, 1000);
  if (!early.has_min_delta()) early.set_min_delta(0);
  at.FiniteAtLeastZero("min_delta", early.min_delta());
  if (recipe.selection() == v1::Recipe::LAST) {
    check.Add("early_stopping", "needs a selection other than LAST");
  }
}

void ResolveHabits(v1::Recipe& recipe, bool pretraining, const FieldChecker& check) {
  if (pretraining) {
    if (recipe.has_habits()) check.Add("habits", "are of fine-tuning only");
    return;
  }
  v1::Recipe::Habits& habits = *recipe.mutable_habits();
  if (!habits.has_first_task_weight()) habits.set_first_task_weight(false);
  if (!habits.has_count_padding()) habits.set_count_padding(false);
  if (!habits.has_teacher_forced()) habits.set_teacher_forced(false);
}

void ResolveLength(v1::Recipe& recipe, bool pretraining, const FieldChecker& check) {
  if (recipe.has_steps()) {
    check.Integer("steps", recipe.steps(), 1, 100'000'000);
    if (recipe.has_epochs()) check.Add("epochs", "is given together with steps: give one of them");
  } else {
    if (!recipe.has_epochs()) recipe.set_epochs(pretraining ? 1 : 4);
    check.Integer("epochs", recipe.epochs(), 1, 1000);
  }
  if (!recipe.has_warmup_steps()) recipe.set_warmup_steps(0);
  check.AtLeastZero("warmup_steps", recipe.warmup_steps());
  if (recipe.has_steps() && recipe.warmup_steps() > recipe.steps()) {
    check.Add("warmup_steps", absl::StrCat(WithCommas(recipe.warmup_steps()), " is more than the ",
                                           WithCommas(recipe.steps()), " steps of the job"));
  }
}

void ResolveOptimizer(v1::Recipe& recipe, bool pretraining, const FieldChecker& check) {
  if (recipe.optimizer() == v1::Recipe::OPTIMIZER_UNSPECIFIED) {
    recipe.set_optimizer(pretraining ? v1::Recipe::ADAFACTOR : v1::Recipe::ADAMW);
  }
  check.Known("optimizer", recipe.optimizer(), v1::Recipe::Optimizer_IsValid(recipe.optimizer()));
  if (!recipe.has_learning_rate()) {
    recipe.set_learning_rate(recipe.optimizer() == v1::Recipe::ADAFACTOR ? 1e-2 : 3e-4);
  }
  check.Positive("learning_rate", recipe.learning_rate(), 1);
  if (!recipe.has_weight_decay()) recipe.set_weight_decay(0);
  check.Real("weight_decay", recipe.weight_decay(), 0.0, 1.0);
  if (recipe.schedule() == v1::Recipe::SCHEDULE_UNSPECIFIED) {
    recipe.set_schedule(pretraining ? v1::Recipe::LINEAR : v1::Recipe::CONSTANT);
  }
  check.Known("schedule", recipe.schedule(), v1::Recipe::Schedule_IsValid(recipe.schedule()));
  if (!recipe.has_max_gradient_norm()) recipe.set_max_gradient_norm(1);
  check.FiniteAtLeastZero("max_gradient_norm", recipe.max_gradient_norm());
  if (!recipe.has_dropout()) recipe.set_dropout(pretraining ? 0 : 0.1);
  check.Real("dropout", recipe.dropout(), 0.0, 0.9);
  if (!recipe.has_label_smoothing()) recipe.set_label_smoothing(0);
  check.Real("label_smoothing", recipe.label_smoothing(), 0.0, 0.9);
  if (!recipe.has_freeze_embeddings()) recipe.set_freeze_embeddings(false);
  if (!recipe.has_freeze_encoder()) recipe.set_freeze_encoder(false);
  if (recipe.precision() == v1::Recipe::PRECISION_UNSPECIFIED) {
    recipe.set_precision(v1::Recipe::FP32);
  }
  check.Known("precision", recipe.precision(), v1::Recipe::Precision_IsValid(recipe.precision()));
  if (recipe.precision() == v1::Recipe::FP16) {
    check.Add("precision",
              "FP16 cannot hold T5: its activations exceed 65,504, and the loss becomes NaN; use "
              "BF16 or FP32");
  }
}

void ResolveRecipe(v1::Recipe& recipe, bool pretraining, const FieldChecker& check) {
  ResolvePreset(recipe, pretraining, check);
  ResolveLength(recipe, pretraining, check);
  ResolveBatch(recipe, pretraining, check);
  ResolveOptimizer(recipe, pretraining, check);
  if (!recipe.has_seed()) recipe.set_seed(12);
  if (!recipe.has_checkpoint_every_steps()) recipe.set_checkpoint_every_steps(500);
  check.AtLeastZero("checkpoint_every_steps", recipe.checkpoint_every_steps());
  if (recipe.mixing() == v1::Recipe::MIXING_UNSPECIFIED) {
    recipe.set_mixing(v1::Recipe::PROPORTIONAL);
  }
  check.Known("mixing", recipe.mixing(), v1::Recipe::Mixing_IsValid(recipe.mixing()));
  ResolveSelection(recipe, check);
  ResolveHabits(recipe, pretraining, check);
}

void ResolveLabels(v1::Task& task, const FieldChecker& check) {
  check.Count("labels", task.labels_size(), 2, 256);
  std::set<std::string> names, target_texts, values;
  for (int i = 0; i < task.labels_size(); ++i) {
    v1::Label& label = *task.mutable_labels(i);
    const FieldChecker at = check.At("labels", i);
    if (CheckName(at, "name", label.name(), 1) && !names.insert(label.name()).second) {
      at.Add("name", absl::StrCat(Quote(label.name()), " is the name of another label too"));
    }
    if (label.target_text().empty()) label.set_target_text(label.name());
    CheckText(at, "target_text", label.target_text());
    if (!target_texts.insert(label.target_text()).second) {
      at.Add("target_text",
             absl::StrCat(Quote(label.target_text()), " is the target of another label too"));
    }
    if (!label.has_weight()) label.set_weight(1);
    at.Positive("weight", label.weight(), 1000);
    if (label.values().empty()) label.add_values(label.name());
    at.Count("values", label.values_size(), 0, kMaxValues);
    for (int j = 0; j < std::min(label.values_size(), kMaxValues); ++j) {
      CheckBytes(at, absl::StrCat("values[", j, "]"), label.values(j).size(), kMaxValueBytes);
      if (label.values(j).empty()) {
        at.Add(absl::StrCat("values[", j, "]"), "is empty");
      } else if (!values.insert(label.values(j)).second) {
        at.Add(
            absl::StrCat("values[", j, "]"),
            absl::StrCat(Quote(label.values(j)), " is in the task twice: it can mean one label"));
      }
    }
  }
}

// A task's name, which is to be another than those in `names`.
void CheckTaskName(const v1::Task& task, std::set<std::string>& names, const FieldChecker& at) {
  if (!IsTaskName(task.name())) {
    at.Add("name", absl::StrCat(Quote(task.name()),
                                " is not of the form [a-z]([a-z0-9_-]{0,30}[a-z0-9])?"));
  } else if (!names.insert(task.name()).second) {
    at.Add("name", absl::StrCat(Quote(task.name()), " is the name of another task too"));
  }
}

void CheckAbstainPrecision(const v1::Task& task, const FieldChecker& at) {
  if (!task.has_abstain_precision()) return;
  if (!(task.abstain_precision() > 0 && task.abstain_precision() < 1)) {
    at.Add("abstain_precision",
           absl::StrCat(task.abstain_precision(), " is not above 0 and below 1"));
  }
  if (task.valid_dataset().empty()) {
    at.Add("abstain_precision", "needs a valid_dataset, on which the threshold is chosen");
  }
}

// `trained`: the tasks of a model, whose datasets need not be known any more.
void ResolveTasks(google::protobuf::RepeatedPtrField<v1::Task>& tasks, bool trained,
                  const FieldChecker& check) {
  check.Count("tasks", tasks.size(), trained ? 0 : 1, kMaxTasks);
  std::set<std::string> names;
  size_t bytes = 0;
  for (int i = 0; i < tasks.size(); ++i) {
    v1::Task& task = tasks[i];
    const FieldChecker at = check.At("tasks", i);
    CheckTaskName(task, names, at);
    ResolveLabels(task, at);
    if (!task.has_prefix()) {
      task.set_prefix(tasks.size() == 1 ? "" : absl::StrCat(task.name(), ": "));
    }
    CheckText(at, "prefix", task.prefix());
    if (!trained || !task.train_dataset().empty()) {
      CheckDataset(at, "train_dataset", task.train_dataset());
    }
    if (!task.valid_dataset().empty()) CheckDataset(at, "valid_dataset", task.valid_dataset());
    if (!task.test_dataset().empty()) CheckDataset(at, "test_dataset", task.test_dataset());
    if (!task.has_weight()) task.set_weight(1);
    at.Positive("weight", task.weight(), 1000);
    CheckAbstainPrecision(task, at);
    if (task.class_weights() == v1::Task::CLASS_WEIGHTS_UNSPECIFIED) {
      task.set_class_weights(v1::Task::NONE);
    }
    at.Known("class_weights", task.class_weights(),
             v1::Task::ClassWeights_IsValid(task.class_weights()));
    bytes += task.ByteSizeLong();
  }
  CheckBytes(check, "tasks", bytes, kMaxWorkBytes);
}

// Also what it means for the recipe, whose own defaults are for training all weights.
void ResolveLora(v1::Lora& lora, v1::Recipe& recipe, const FieldChecker& check) {
  const FieldChecker at = check.At("lora");
  if (!lora.has_rank()) lora.set_rank(8);
  at.Integer("rank", lora.rank(), 1, 1024);
  if (!lora.has_alpha()) lora.set_alpha(16);
  at.Positive("alpha", lora.alpha(), 10'000);
  if (!lora.has_dropout()) lora.set_dropout(0);
  at.Real("dropout", lora.dropout(), 0.0, 0.9);
  if (lora.target_modules().empty()) {
    lora.add_target_modules("q");
    lora.add_target_modules("v");
  }
  std::set<std::string> modules;
  for (int i = 0; i < lora.target_modules_size(); ++i) {
    const std::string field = absl::StrCat("target_modules[", i, "]");
    const std::string& module = lora.target_modules(i);
    if (std::find(std::begin(kTargetModules), std::end(kTargetModules), module) ==
        std::end(kTargetModules)) {
      at.Add(field,
             absl::StrCat(Quote(module), " is none of ", absl::StrJoin(kTargetModules, ", ")));
    } else if (!modules.insert(module).second) {
      at.Add(field, absl::StrCat(Quote(module), " is in the list twice"));
    }
  }
  for (const auto& [field, frozen] : {std::pair("freeze_embeddings", recipe.freeze_embeddings()),
                                      std::pair("freeze_encoder", recipe.freeze_encoder())}) {
    if (frozen) check.At("recipe").Add(field, "does not go with lora, which keeps all weights");
  }
  const bool adamw = recipe.optimizer() != v1::Recipe::ADAFACTOR;
  const bool study = recipe.preset() == v1::Recipe::STUDY;
  if (adamw && !study && !recipe.has_learning_rate()) recipe.set_learning_rate(1e-3);
}

void ResolveFineTuning(v1::FineTuning& work, const FieldChecker& check) {
  CheckModelOrVersion(check, "base_model_version", work.base_model_version());
  ResolveTasks(*work.mutable_tasks(), false, check);
  if (work.has_lora()) ResolveLora(*work.mutable_lora(), *work.mutable_recipe(), check);
  ResolveRecipe(*work.mutable_recipe(), false, check.At("recipe"));
  if (work.recipe().has_early_stopping() &&
      std::all_of(work.tasks().begin(), work.tasks().end(),
                  [](const v1::Task& task) { return task.valid_dataset().empty(); })) {
    check.Add("recipe.early_stopping", "needs a task with a valid_dataset");
  }
}

// The numbers of a preset; empty for PRESET_UNSPECIFIED.
v1::ModelSize NumbersOf(v1::ModelSize::Preset preset) {
  const auto size = [](int d_model, int d_kv, int d_ff, int heads, int layers, int decoder_layers) {
    v1::ModelSize numbers;
    numbers.set_d_model(d_model);
    numbers.set_d_kv(d_kv);
    numbers.set_d_ff(d_ff);
    numbers.set_num_heads(heads);
    numbers.set_num_layers(layers);
    numbers.set_num_decoder_layers(decoder_layers);
    return numbers;
  };
  switch (preset) {
    case v1::ModelSize::TINY:
      return size(128, 32, 512, 4, 2, 2);
    case v1::ModelSize::MINI:
      return size(256, 64, 1024, 4, 4, 2);
    case v1::ModelSize::SMALL:
      return size(512, 64, 2048, 8, 6, 6);
    case v1::ModelSize::BASE:
      return size(768, 64, 3072, 12, 12, 12);
    default:
      return {};
  }
}

void ResolveSize(v1::ModelSize& size, const FieldChecker& check) {
  if (size.ByteSizeLong() == 0) size.set_preset(v1::ModelSize::TINY);
  if (!v1::ModelSize::Preset_IsValid(size.preset())) {
    return check.Known("preset", size.preset(), false);
  }
  v1::ModelSize resolved = NumbersOf(size.preset());
  resolved.MergeFrom(size);
  size = resolved;
  const auto number = [&](absl::string_view field, bool set, int value, int low, int high) {
    if (set) {
      check.Integer(field, value, low, high);
    } else {
      check.Add(field, "is missing: without a preset every number of the size is needed");
    }
  };
  number("d_model", size.has_d_model(), size.d_model(), 16, 4096);
  number("d_kv", size.has_d_kv(), size.d_kv(), 8, 256);
  number("d_ff", size.has_d_ff(), size.d_ff(), 16, 65536);
  number("num_heads", size.has_num_heads(), size.num_heads(), 1, 128);
  number("num_layers", size.has_num_layers(), size.num_layers(), 1, 48);
  number("num_decoder_layers", size.has_num_decoder_layers(), size.num_decoder_layers(), 1, 48);
}

void ResolvePretraining(v1::Pretraining& work, const FieldChecker& check) {
  check.Count("datasets", work.datasets_size(), 1, 64);
  std::set<std::string> names;
  for (int i = 0; i < work.datasets_size(); ++i) {
    const std::string field = absl::StrCat("datasets[", i, "]");
    CheckDataset(check, field, work.datasets(i));
    if (!names.insert(work.datasets(i)).second) {
      check.Add(field, absl::StrCat(Quote(work.datasets(i)), " is in the list twice"));
    }
  }
  ResolveSize(*work.mutable_size(), check.At("size"));
  if (!work.has_vocabulary_size()) work.set_vocabulary_size(8000);
  check.Count("required_texts", work.required_texts_size(), 0, kMaxRequiredTexts);
  size_t bytes = 0;
  for (const std::string& text : work.required_texts()) bytes += text.size();
  CheckBytes(check, "required_texts", bytes, kMaxWorkBytes);
  check.Integer("vocabulary_size", work.vocabulary_size(), 200, 64000);
  if (!work.has_noise_density()) work.set_noise_density(0.15);
  check.Real("noise_density", work.noise_density(), 0.05, 0.5);
  if (!work.has_mean_span_tokens()) work.set_mean_span_tokens(3);
  check.Real("mean_span_tokens", work.mean_span_tokens(), 1.0, 10.0);
  ResolveRecipe(*work.mutable_recipe(), true, check.At("recipe"));
}

void ResolveEvaluation(v1::EvaluationJob& work, const FieldChecker& check) {
  CheckModelOrVersion(check, "model_version", work.model_version());
  check.Count("tasks", work.tasks_size(), 1, kMaxTasks);
  std::set<std::string> names;
  for (int i = 0; i < work.tasks_size(); ++i) {
    v1::Task& task = *work.mutable_tasks(i);
    const FieldChecker at = check.At("tasks", i);
    CheckTaskName(task, names, at);
    if (!task.labels().empty()) ResolveLabels(task, at);
    CheckText(at, "prefix", task.prefix());
    CheckDataset(at, "test_dataset", task.test_dataset());
    for (const auto& [field, given] :
         {std::pair("train_dataset", !task.train_dataset().empty()),
          std::pair("valid_dataset", !task.valid_dataset().empty()),
          std::pair("weight", task.has_weight()),
          std::pair("class_weights", task.class_weights() != v1::Task::CLASS_WEIGHTS_UNSPECIFIED),
          std::pair("abstain_precision", task.has_abstain_precision())}) {
      if (given) at.Add(field, "does not belong to an evaluation, which trains nothing");
    }
  }
  if (work.has_max_input_tokens()) {
    check.Integer("max_input_tokens", work.max_input_tokens(), kMinInputTokens, kMaxInputTokens);
  }
}

}  // namespace

void CheckDisplayName(const FieldChecker& check, absl::string_view name) {
  CheckName(check, "display_name", name, 0);
}

bool IsResourceId(absl::string_view id) { return IsIdOf(id, 63, "-"); }

int LabelOfValue(const v1::Task& task, absl::string_view value) {
  for (int i = 0; i < task.labels_size(); ++i) {
    for (const std::string& candidate : task.labels(i).values()) {
      if (candidate == value) return i;
    }
  }
  return -1;
}

void ResolveJob(v1::TrainingJob& job, Faults& faults) {
  const FieldChecker check("", faults);
  CheckDisplayName(check, job.display_name());
  if (job.has_evaluation()) {
    if (!job.model().empty()) check.Add("model", "is given, but an evaluation publishes nothing");
  } else if (!IsModelName(job.model())) {
    check.Add("model", absl::StrCat(Quote(job.model()), " is not of the form models/{id}"));
  }
  if (job.has_deploy_on_success()) {
    const FieldChecker deploy = check.At("deploy_on_success");
    if (!job.has_fine_tuning()) {
      check.Add("deploy_on_success", "is of fine-tuning only: nothing else makes what can answer");
    }
    const std::string& alias = job.deploy_on_success().alias();
    if (!IsResourceId(alias)) {
      deploy.Add("alias", absl::StrCat(Quote(alias), " is no id, such as production"));
    }
    if (job.deploy_on_success().has_max_regression()) {
      deploy.Real("max_regression", job.deploy_on_success().max_regression(), 0, 1);
    }
  }
  switch (job.work_case()) {
    case v1::TrainingJob::kFineTuning:
      return ResolveFineTuning(*job.mutable_fine_tuning(), check.At("fine_tuning"));
    case v1::TrainingJob::kPretraining:
      return ResolvePretraining(*job.mutable_pretraining(), check.At("pretraining"));
    case v1::TrainingJob::kEvaluation:
      return ResolveEvaluation(*job.mutable_evaluation(), check.At("evaluation"));
    case v1::TrainingJob::WORK_NOT_SET:
      check.Add("fine_tuning", "is missing: a job has fine_tuning, pretraining or evaluation");
  }
}

void ResolveManifest(internal::ModelManifest& manifest, Faults& faults) {
  const FieldChecker check("", faults);
  ResolveTasks(*manifest.mutable_tasks(), true, check);
  check.Integer("max_input_tokens", manifest.max_input_tokens(),
                manifest.tasks().empty() ? 0 : kMinInputTokens, kMaxInputTokens);
  check.Count("evaluations", manifest.evaluations_size(), 0, kMaxEvaluations);
  for (int i = 0; i < manifest.evaluations_size(); ++i) {
    const std::string& task = manifest.evaluations(i).task();
    if (!task.empty() && !IsTaskName(task)) {
      check.At("evaluations", i).Add("task", absl::StrCat(Quote(task), " is no name of a task"));
    }
  }
  check.AtLeastZero("parameter_count", manifest.parameter_count());
}

}  // namespace tasuki
