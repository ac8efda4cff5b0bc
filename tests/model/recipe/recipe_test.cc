#include "model/recipe/recipe.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "google/protobuf/util/message_differencer.h"
#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"

namespace tasuki {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

v1::TrainingJob Parse(const std::string& text) {
  v1::TrainingJob job;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &job)) << text;
  return job;
}

// A valid job of as many tasks as `names`.
v1::TrainingJob FineTuningOf(const std::vector<std::string>& names) {
  v1::TrainingJob job =
      Parse("model: 'models/reviews' fine_tuning { base_model_version: 'models/base' }");
  for (const std::string& name : names) {
    v1::Task& task = *job.mutable_fine_tuning()->add_tasks();
    task.set_name(name);
    task.add_labels()->set_name("negative");
    task.add_labels()->set_name("positive");
    task.set_train_dataset("datasets/train");
  }
  return job;
}

v1::TrainingJob Pretraining(const std::string& fields) {
  return Parse(
      absl::StrCat("model: 'models/base' pretraining { datasets: 'datasets/a' ", fields, " }"));
}

// Resolves `job` and gives the fields at fault.
std::vector<std::string> FieldsAtFault(v1::TrainingJob& job) {
  Faults faults;
  ResolveJob(job, faults);
  google::rpc::BadRequest details;
  if (const auto payload = faults.ToStatus().GetPayload(kBadRequestUrl)) {
    details.ParseFromString(std::string(*payload));
  }
  std::vector<std::string> fields;
  for (const auto& violation : details.field_violations()) fields.push_back(violation.field());
  return fields;
}
std::vector<std::string> FieldsAtFault(v1::TrainingJob&& job) { return FieldsAtFault(job); }

std::string MessageOf(v1::TrainingJob job) {
  Faults faults;
  ResolveJob(job, faults);
  return std::string(faults.ToStatus().message());
}

TEST(ResolveJob, FillsTheDefaultsOfFineTuning) {
  v1::TrainingJob job = FineTuningOf({"sentiment"});
  ASSERT_THAT(FieldsAtFault(job), IsEmpty());
  const v1::TrainingJob expected = Parse(R"(
    model: 'models/reviews'
    fine_tuning {
      base_model_version: 'models/base'
      tasks {
        name: 'sentiment' prefix: '' weight: 1 train_dataset: 'datasets/train'
        class_weights: NONE
        labels { name: 'negative' target_text: 'negative' values: 'negative' weight: 1 }
        labels { name: 'positive' target_text: 'positive' values: 'positive' weight: 1 }
      }
      recipe {
        epochs: 4 batch_size: 8 max_input_tokens: 512 optimizer: ADAMW learning_rate: 3e-4
        weight_decay: 0 schedule: CONSTANT warmup_steps: 0 max_gradient_norm: 1 dropout: .1
        seed: 12 evaluate_every_steps: 0 checkpoint_every_steps: 500 mixing: PROPORTIONAL
        selection: MACRO_F1 preset: RECOMMENDED gradient_accumulation_steps: 1 label_smoothing: 0
        freeze_embeddings: false freeze_encoder: false selection_over_tasks: MEAN
        evaluate_every_epochs: 1 precision: FP32
        habits { first_task_weight: false count_padding: false teacher_forced: false }
      }
    })");
  EXPECT_EQ(job.DebugString(), expected.DebugString());
}

TEST(ResolveJob, FillsTheDefaultsOfPretraining) {
  v1::TrainingJob job = Pretraining("recipe { steps: 2000 }");
  ASSERT_THAT(FieldsAtFault(job), IsEmpty());
  const v1::TrainingJob expected = Pretraining(R"(
    size {
      preset: TINY d_model: 128 d_kv: 32 d_ff: 512 num_heads: 4 num_layers: 2 num_decoder_layers: 2
    }
    vocabulary_size: 8000 noise_density: .15 mean_span_tokens: 3
    recipe {
      steps: 2000 batch_size: 32 max_input_tokens: 128 optimizer: ADAFACTOR learning_rate: 1e-2
      weight_decay: 0 schedule: LINEAR warmup_steps: 0 max_gradient_norm: 1 dropout: 0
      seed: 12 evaluate_every_steps: 0 checkpoint_every_steps: 500 mixing: PROPORTIONAL
      selection: MACRO_F1 preset: RECOMMENDED gradient_accumulation_steps: 1 label_smoothing: 0
      freeze_embeddings: false freeze_encoder: false selection_over_tasks: MEAN
      evaluate_every_epochs: 1 precision: FP32
    })");
  EXPECT_EQ(job.DebugString(), expected.DebugString());
}

TEST(ResolveJob, ChangesNothingTheSecondTime) {
  for (v1::TrainingJob job : {FineTuningOf({"a", "b"}), Pretraining(""),
                              Pretraining("size { preset: MINI d_ff: 64 } recipe { steps: 7 }")}) {
    ASSERT_THAT(FieldsAtFault(job), IsEmpty());
    const v1::TrainingJob once = job;
    ASSERT_THAT(FieldsAtFault(job), IsEmpty());
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(once, job));
  }
}

TEST(ResolveJob, KeepsWhatTheJobSays) {
  v1::TrainingJob job = FineTuningOf({"a", "b"});
  v1::Task& task = *job.mutable_fine_tuning()->mutable_tasks(0);
  task.set_prefix("");
  task.set_weight(0.3);
  task.mutable_labels(0)->set_target_text("0");
  task.mutable_labels(0)->add_values("1");
  task.mutable_labels(0)->add_values("2");
  job.mutable_fine_tuning()->mutable_recipe()->set_steps(10);
  job.mutable_fine_tuning()->mutable_recipe()->set_dropout(0);
  ASSERT_THAT(FieldsAtFault(job), IsEmpty());
  EXPECT_EQ(task.prefix(), "");
  EXPECT_EQ(task.weight(), 0.3);
  EXPECT_EQ(task.labels(0).target_text(), "0");
  EXPECT_THAT(task.labels(0).values(), ElementsAre("1", "2"));
  EXPECT_FALSE(job.fine_tuning().recipe().has_epochs());
  EXPECT_EQ(job.fine_tuning().recipe().dropout(), 0);
}

TEST(ResolveJob, PutsTheTaskNameBeforeTextsOnlyIfThereAreSeveralTasks) {
  v1::TrainingJob job = FineTuningOf({"amcd", "marc"});
  ASSERT_THAT(FieldsAtFault(job), IsEmpty());
  EXPECT_EQ(job.fine_tuning().tasks(0).prefix(), "amcd: ");
  EXPECT_EQ(job.fine_tuning().tasks(1).prefix(), "marc: ");
}

TEST(ResolveJob, TakesLearningRateByOptimizer) {
  v1::TrainingJob job = FineTuningOf({"a"});
  job.mutable_fine_tuning()->mutable_recipe()->set_optimizer(v1::Recipe::ADAFACTOR);
  ASSERT_THAT(FieldsAtFault(job), IsEmpty());
  EXPECT_EQ(job.fine_tuning().recipe().learning_rate(), 1e-2);
}

TEST(ResolveJob, FillsTheDefaultsOfAnAdapter) {
  v1::TrainingJob job = FineTuningOf({"a"});
  v1::FineTuning& work = *job.mutable_fine_tuning();
  work.mutable_lora();
  ASSERT_THAT(FieldsAtFault(job), IsEmpty());
  EXPECT_EQ(work.lora().rank(), 8);
  EXPECT_EQ(work.lora().alpha(), 16);
  EXPECT_EQ(work.lora().dropout(), 0);
  EXPECT_THAT(work.lora().target_modules(), ElementsAre("q", "v"));
  EXPECT_EQ(work.recipe().learning_rate(), 1e-3);
  const v1::TrainingJob once = job;
  ASSERT_THAT(FieldsAtFault(job), IsEmpty());
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(once, job));
}

TEST(ResolveJob, KeepsTheLearningRateOfAnAdapterThatIsGiven) {
  for (const auto& [recipe, rate] :
       {std::pair("learning_rate: 0.2", 0.2), std::pair("optimizer: ADAFACTOR", 1e-2),
        std::pair("preset: STUDY", 3e-4)}) {
    v1::TrainingJob job = FineTuningOf({"a"});
    job.mutable_fine_tuning()->mutable_lora();
    ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(
        recipe, job.mutable_fine_tuning()->mutable_recipe()));
    ASSERT_THAT(FieldsAtFault(job), IsEmpty());
    EXPECT_EQ(job.fine_tuning().recipe().learning_rate(), rate) << recipe;
  }
}

TEST(ResolveJob, RefusesEachFieldOfAnAdapterOutOfItsRange) {
  const struct {
    const char* work;
    const char* field;
  } kCases[] = {
      {"lora { rank: 0 }", "lora.rank"},
      {"lora { rank: 1025 }", "lora.rank"},
      {"lora { alpha: 0 }", "lora.alpha"},
      {"lora { alpha: nan }", "lora.alpha"},
      {"lora { alpha: 10001 }", "lora.alpha"},
      {"lora { dropout: -.1 }", "lora.dropout"},
      {"lora { dropout: .91 }", "lora.dropout"},
      {"lora { target_modules: ['q', 'q'] }", "lora.target_modules[1]"},
      {"lora { target_modules: ['q', 'lm_head'] }", "lora.target_modules[1]"},
      {"lora {} recipe { freeze_encoder: true }", "recipe.freeze_encoder"},
      {"lora {} recipe { freeze_embeddings: true }", "recipe.freeze_embeddings"},
  };
  for (const auto& [work, field] : kCases) {
    v1::TrainingJob job = FineTuningOf({"a"});
    v1::FineTuning more;
    ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(work, &more));
    job.mutable_fine_tuning()->MergeFrom(more);
    EXPECT_THAT(FieldsAtFault(job), ElementsAre(absl::StrCat("fine_tuning.", field))) << work;
  }
}

TEST(ResolveJob, ReplacesNumbersOfAPresetByThoseGiven) {
  v1::TrainingJob job = Pretraining("size { preset: BASE num_decoder_layers: 1 }");
  ASSERT_THAT(FieldsAtFault(job), IsEmpty());
  EXPECT_EQ(job.pretraining().size().num_layers(), 12);
  EXPECT_EQ(job.pretraining().size().num_decoder_layers(), 1);
  EXPECT_EQ(job.pretraining().size().preset(), v1::ModelSize::BASE);
}

TEST(ResolveJob, NamesEveryFaultOfABadJobAtOnce) {
  v1::TrainingJob job = Parse(R"(
    display_name: 'この名前は六十三文字を超えるので断られるはずであるこの名前は六十三文字を超えるので断られるはずであるこの名前は六十三文字を超える'
    model: 'reviews'
    fine_tuning {
      base_model_version: 'models/Base'
      tasks {
        name: 'Bad name' train_dataset: 'train' valid_dataset: 'datasets/' weight: 0
        labels { name: 'a' } labels { name: 'a' }
      }
      recipe { epochs: 0 batch_size: 5000 learning_rate: -1 dropout: 1 }
    })");
  EXPECT_THAT(
      FieldsAtFault(job),
      ElementsAre("display_name", "model", "fine_tuning.base_model_version",
                  "fine_tuning.tasks[0].name", "fine_tuning.tasks[0].labels[1].name",
                  "fine_tuning.tasks[0].labels[1].target_text",
                  "fine_tuning.tasks[0].labels[1].values[0]", "fine_tuning.tasks[0].train_dataset",
                  "fine_tuning.tasks[0].valid_dataset", "fine_tuning.tasks[0].weight",
                  "fine_tuning.recipe.epochs", "fine_tuning.recipe.batch_size",
                  "fine_tuning.recipe.learning_rate", "fine_tuning.recipe.dropout"));
}

TEST(ResolveJob, BoundsTextsAndRefusesControlCharactersInNames) {
  v1::TrainingJob job = FineTuningOf({"a"});
  job.set_display_name("red\x1b[31m");
  v1::Task& task = *job.mutable_fine_tuning()->mutable_tasks(0);
  task.set_prefix(std::string(257, 'p'));
  task.mutable_labels(0)->set_name("a\u0085b");
  task.mutable_labels(0)->set_target_text(std::string(257, 't'));
  task.mutable_labels(0)->add_values(std::string(1025, 'v'));
  for (int i = 0; i < 1001; ++i) task.mutable_labels(1)->add_values(absl::StrCat(i));
  EXPECT_THAT(FieldsAtFault(job),
              ElementsAre("display_name", "fine_tuning.tasks[0].labels[0].name",
                          "fine_tuning.tasks[0].labels[0].target_text",
                          "fine_tuning.tasks[0].labels[0].values[0]",
                          "fine_tuning.tasks[0].labels[1].values", "fine_tuning.tasks[0].prefix"));

  job = FineTuningOf({"a"});
  v1::Label& label = *job.mutable_fine_tuning()->mutable_tasks(0)->mutable_labels(0);
  for (int i = 100; i < 620; ++i) label.add_values(absl::StrCat(i, std::string(1021, 'v')));
  EXPECT_THAT(FieldsAtFault(job), ElementsAre("fine_tuning.tasks"));
  job = Pretraining("");
  for (int i = 0; i < 1001; ++i) job.mutable_pretraining()->add_required_texts("良い");
  EXPECT_THAT(FieldsAtFault(job), ElementsAre("pretraining.required_texts"));
}

TEST(ResolveManifest, HoldsAModelToTheRulesOfJobs) {
  internal::ModelManifest manifest;
  Faults none;
  ResolveManifest(manifest, none);
  EXPECT_TRUE(none.empty());  // a base model
  *manifest.mutable_tasks() = FineTuningOf({"a", "b"}).fine_tuning().tasks();
  manifest.mutable_tasks(0)->clear_train_dataset();
  manifest.set_max_input_tokens(8);
  ResolveManifest(manifest, none);
  EXPECT_TRUE(none.empty()) << none.ToStatus();
  EXPECT_EQ(manifest.tasks(1).prefix(), "b: ");

  manifest.mutable_tasks(0)->clear_labels();
  manifest.mutable_tasks(0)->set_train_dataset("../etc");
  manifest.mutable_tasks(1)->mutable_labels(0)->set_name("\x1b[2J");
  manifest.set_max_input_tokens(2147483647);
  manifest.set_parameter_count(-1);
  manifest.add_evaluations()->set_task(std::string(100'000, 'x'));
  Faults faults;
  ResolveManifest(manifest, faults);
  EXPECT_EQ(faults.size(), 6u) << faults.ToStatus();
}

TEST(ResolveJob, SaysValueAndLimit) {
  v1::TrainingJob job = FineTuningOf({"a"});
  job.mutable_fine_tuning()->mutable_recipe()->set_steps(200'000'000);
  EXPECT_EQ(MessageOf(job), "fine_tuning.recipe.steps: 200,000,000 is not in 1 to 100,000,000");
}

TEST(ResolveJob, RefusesAJobWithoutWork) {
  EXPECT_THAT(FieldsAtFault(Parse("model: 'models/a'")), ElementsAre("fine_tuning"));
  EXPECT_THAT(FieldsAtFault(Parse("model: 'models/a' fine_tuning {}")),
              ElementsAre("fine_tuning.base_model_version", "fine_tuning.tasks"));
  EXPECT_THAT(FieldsAtFault(Parse("model: 'models/a' pretraining {}")),
              ElementsAre("pretraining.datasets"));
}

TEST(ResolveJob, RefusesEpochsTogetherWithSteps) {
  v1::TrainingJob job = FineTuningOf({"a"});
  job.mutable_fine_tuning()->mutable_recipe()->set_epochs(1);
  job.mutable_fine_tuning()->mutable_recipe()->set_steps(1);
  EXPECT_THAT(FieldsAtFault(job), ElementsAre("fine_tuning.recipe.epochs"));
}

TEST(ResolveJob, RefusesEachRecipeFieldOutOfItsRange) {
  const struct {
    const char* recipe;
    const char* field;
  } kCases[] = {
      {"epochs: 1001", "epochs"},
      {"steps: 0", "steps"},
      {"batch_size: 0", "batch_size"},
      {"max_input_tokens: 7", "max_input_tokens"},
      {"max_input_tokens: 4097", "max_input_tokens"},
      {"learning_rate: 0", "learning_rate"},
      {"learning_rate: 1.1", "learning_rate"},
      {"learning_rate: nan", "learning_rate"},
      {"learning_rate: inf", "learning_rate"},
      {"weight_decay: -.1", "weight_decay"},
      {"weight_decay: nan", "weight_decay"},
      {"warmup_steps: -1", "warmup_steps"},
      {"steps: 10 warmup_steps: 11", "warmup_steps"},
      {"max_gradient_norm: inf", "max_gradient_norm"},
      {"max_gradient_norm: nan", "max_gradient_norm"},
      {"max_gradient_norm: -1", "max_gradient_norm"},
      {"dropout: .91", "dropout"},
      {"dropout: nan", "dropout"},
      {"evaluate_every_steps: -1", "evaluate_every_steps"},
      {"checkpoint_every_steps: -1", "checkpoint_every_steps"},
      {"batch_tokens: 0", "batch_tokens"},
      {"batch_tokens: 100 batch_size: 8", "batch_size"},
      {"gradient_accumulation_steps: 0", "gradient_accumulation_steps"},
      {"label_smoothing: .95", "label_smoothing"},
      {"evaluate_every_epochs: 0", "evaluate_every_epochs"},
      {"evaluate_every_epochs: 2 evaluate_every_steps: 9", "evaluate_every_epochs"},
      {"time_limit { nanos: 999999999 }", "time_limit"},
      {"early_stopping { patience: 0 }", "early_stopping.patience"},
      {"early_stopping { min_delta: nan }", "early_stopping.min_delta"},
      {"early_stopping {} selection: LAST", "early_stopping"},
      {"precision: FP16", "precision"},
      {"preset: STUDY", "preset"},
      {"habits {}", "habits"},
  };
  for (const auto& [recipe, field] : kCases) {
    EXPECT_THAT(FieldsAtFault(Pretraining(absl::StrCat("recipe { ", recipe, " }"))),
                ElementsAre(absl::StrCat("pretraining.recipe.", field)))
        << recipe;
  }
}

TEST(ResolveJob, SaysWhyHalfPrecisionIsRefused) {
  v1::TrainingJob job = FineTuningOf({"a"});
  job.mutable_fine_tuning()->mutable_recipe()->set_precision(v1::Recipe::FP16);
  EXPECT_THAT(MessageOf(job), ::testing::HasSubstr("65,504"));
}

TEST(ResolveJob, RefusesEarlyStoppingWithoutAValidDataset) {
  v1::TrainingJob job = FineTuningOf({"a", "b"});
  job.mutable_fine_tuning()->mutable_recipe()->mutable_early_stopping();
  EXPECT_THAT(FieldsAtFault(job), ElementsAre("fine_tuning.recipe.early_stopping"));
  job.mutable_fine_tuning()->mutable_tasks(1)->set_valid_dataset("datasets/v");
  EXPECT_THAT(FieldsAtFault(job), IsEmpty());
  EXPECT_EQ(job.fine_tuning().recipe().early_stopping().patience(), 3);
}

TEST(ResolveJob, PutsTheStudysValuesUnderThoseGiven) {
  v1::TrainingJob job = FineTuningOf({"amcd", "marc"});
  v1::Recipe& recipe = *job.mutable_fine_tuning()->mutable_recipe();
  recipe.set_preset(v1::Recipe::STUDY);
  recipe.set_seed(13);
  recipe.mutable_habits()->set_teacher_forced(false);
  ASSERT_THAT(FieldsAtFault(job), IsEmpty());
  EXPECT_EQ(recipe.epochs(), 4);
  EXPECT_EQ(recipe.batch_size(), 8);
  EXPECT_EQ(recipe.learning_rate(), 3e-4);
  EXPECT_EQ(recipe.max_gradient_norm(), 0);
  EXPECT_EQ(recipe.selection(), v1::Recipe::LAST);
  EXPECT_EQ(recipe.seed(), 13);
  EXPECT_TRUE(recipe.habits().first_task_weight());
  EXPECT_TRUE(recipe.habits().count_padding());
  EXPECT_FALSE(recipe.habits().teacher_forced());
  const v1::TrainingJob once = job;
  ASSERT_THAT(FieldsAtFault(job), IsEmpty());
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(once, job));
}

TEST(ResolveJob, TheStudyTakesStepsAndTokensInsteadOfItsOwn) {
  v1::TrainingJob job = FineTuningOf({"a"});
  v1::Recipe& recipe = *job.mutable_fine_tuning()->mutable_recipe();
  recipe.set_preset(v1::Recipe::STUDY);
  recipe.set_steps(10);
  recipe.set_batch_tokens(1000);
  EXPECT_THAT(FieldsAtFault(job), IsEmpty());
}

TEST(ResolveJob, RefusesLabelWeightsOutOfRange) {
  v1::TrainingJob job = FineTuningOf({"a"});
  job.mutable_fine_tuning()->mutable_tasks(0)->mutable_labels(1)->set_weight(0);
  EXPECT_THAT(FieldsAtFault(job), ElementsAre("fine_tuning.tasks[0].labels[1].weight"));
}

TEST(ResolveJob, RefusesEnumNumbersThatNobodyKnows) {
  v1::TrainingJob job = Pretraining("");
  v1::Recipe& recipe = *job.mutable_pretraining()->mutable_recipe();
  recipe.set_optimizer(static_cast<v1::Recipe::Optimizer>(99));
  recipe.set_schedule(static_cast<v1::Recipe::Schedule>(99));
  recipe.set_mixing(static_cast<v1::Recipe::Mixing>(-1));
  recipe.set_selection(static_cast<v1::Recipe::Selection>(99));
  job.mutable_pretraining()->mutable_size()->set_preset(static_cast<v1::ModelSize::Preset>(99));
  EXPECT_THAT(FieldsAtFault(job),
              ElementsAre("pretraining.size.preset", "pretraining.recipe.optimizer",
                          "pretraining.recipe.schedule", "pretraining.recipe.mixing",
                          "pretraining.recipe.selection"));
}

TEST(ResolveJob, RefusesEachPretrainingFieldOutOfItsRange) {
  const struct {
    const char* fields;
    const char* field;
  } kCases[] = {
      {"datasets: 'datasets/a'", "datasets[1]"},
      {"datasets: 'datasets/../etc'", "datasets[1]"},
      {"vocabulary_size: 199", "vocabulary_size"},
      {"vocabulary_size: 64001", "vocabulary_size"},
      {"noise_density: .04", "noise_density"},
      {"noise_density: nan", "noise_density"},
      {"mean_span_tokens: 11", "mean_span_tokens"},
      {"size { preset: TINY d_model: 8 }", "size.d_model"},
      {"size { preset: TINY num_layers: 49 }", "size.num_layers"},
      {"size { d_model: 64 d_kv: 8 d_ff: 64 num_heads: 2 num_layers: 1 }",
       "size.num_decoder_layers"},
  };
  for (const auto& [fields, field] : kCases) {
    EXPECT_THAT(FieldsAtFault(Pretraining(fields)),
                ElementsAre(absl::StrCat("pretraining.", field)))
        << fields;
  }
}

TEST(ResolveJob, RefusesTwoTasksOfOneName) {
  EXPECT_THAT(FieldsAtFault(FineTuningOf({"a", "b", "a"})),
              ElementsAre("fine_tuning.tasks[2].name"));
}

TEST(ResolveJob, RefusesTooManyTasks) {
  std::vector<std::string> names;
  for (int i = 0; i < 17; ++i) names.push_back(absl::StrCat("task", i));
  EXPECT_THAT(FieldsAtFault(FineTuningOf(names)), ElementsAre("fine_tuning.tasks"));
}

TEST(ResolveJob, RefusesLabelsThatCannotBeToldApart) {
  const struct {
    const char* labels;
    std::vector<std::string> fields;
  } kCases[] = {
      {"labels { name: 'a' }", {"labels"}},
      {"labels { name: 'a' } labels { name: 'b' target_text: 'a' }", {"labels[1].target_text"}},
      {"labels { name: 'a' } labels { name: 'b' values: 'a' }", {"labels[1].values[0]"}},
      {"labels { name: 'a' values: '1' values: '1' } labels { name: 'b' }",
       {"labels[0].values[1]"}},
      {"labels { name: 'a' values: '' } labels { name: 'b' }", {"labels[0].values[0]"}},
      {"labels { name: '' target_text: 'x' values: '1' } labels { name: 'b' }", {"labels[0].name"}},
  };
  for (const auto& [labels, fields] : kCases) {
    v1::TrainingJob job = Parse(absl::StrCat(
        "model: 'models/m' fine_tuning { base_model_version: 'models/b/versions/3' tasks { name: "
        "'t' train_dataset: 'datasets/d' ",
        labels, " } }"));
    std::vector<std::string> expected;
    for (const auto& field : fields) {
      expected.push_back(absl::StrCat("fine_tuning.tasks[0].", field));
    }
    EXPECT_EQ(FieldsAtFault(job), expected) << labels;
  }
}

TEST(ResolveJob, KnowsTheFormsOfABaseModelVersion) {
  const auto accepted = [](const std::string& name) {
    v1::TrainingJob job = FineTuningOf({"a"});
    job.mutable_fine_tuning()->set_base_model_version(name);
    return FieldsAtFault(job).empty();
  };
  for (const char* good : {"models/a", "models/t5-base", "models/a/versions/1",
                           "models/a/versions/9223372036854775807"}) {
    EXPECT_TRUE(accepted(good)) << good;
  }
  for (const char* bad : {"", "a", "models/", "models/A", "models/a/", "models/a/versions/",
                          "models/a/versions/0", "models/a/versions/01", "models/a/versions/-1",
                          "models/a/versions/+1", "models/a/versions/9223372036854775808",
                          "models/a/versions/1/", "models/../versions/1", "datasets/a"}) {
    EXPECT_FALSE(accepted(bad)) << bad;
  }
}

TEST(ResolveJob, ChecksAbstainPrecision) {
  const auto faults = [](double precision, bool valid) {
    v1::TrainingJob job = FineTuningOf({"a"});
    v1::Task& task = *job.mutable_fine_tuning()->mutable_tasks(0);
    if (valid) task.set_valid_dataset("datasets/d");
    task.set_abstain_precision(precision);
    return FieldsAtFault(job).size();
  };
  EXPECT_EQ(faults(.5, true), 0);
  for (const double bad : {0.0, 1.0, -1.0, std::nan("")}) EXPECT_EQ(faults(bad, true), 1) << bad;
  EXPECT_EQ(faults(.5, false), 1) << "there is nothing to choose a threshold on";
}

TEST(ResolveJob, TakesAnEvaluationThatLeavesTheRestToItsVersion) {
  v1::TrainingJob job = Parse(
      "evaluation { model_version: 'models/m' tasks { name: 't' test_dataset: 'datasets/d' } "
      "tasks { name: 'own' test_dataset: 'datasets/d' labels { name: 'a' } labels { name: 'b' } } "
      "}");
  EXPECT_THAT(FieldsAtFault(job), IsEmpty());
  EXPECT_EQ(job.evaluation().tasks(0).labels_size(), 0);
  EXPECT_EQ(job.evaluation().tasks(1).labels(0).target_text(), "a");
  EXPECT_EQ(job.evaluation().tasks(1).labels(0).values(0), "a");
}

TEST(ResolveJob, NamesWhatAnEvaluationMayNotHave) {
  v1::TrainingJob job = Parse(
      "model: 'models/m' evaluation { model_version: 'm' max_input_tokens: 4 tasks { name: 'T' "
      "train_dataset: 'datasets/d' valid_dataset: 'datasets/d' weight: 1 abstain_precision: .5 "
      "labels { name: 'a' } } }");
  EXPECT_THAT(FieldsAtFault(job),
              testing::UnorderedElementsAre(
                  "model", "evaluation.model_version", "evaluation.tasks[0].name",
                  "evaluation.tasks[0].labels", "evaluation.tasks[0].test_dataset",
                  "evaluation.tasks[0].train_dataset", "evaluation.tasks[0].valid_dataset",
                  "evaluation.tasks[0].weight", "evaluation.tasks[0].abstain_precision",
                  "evaluation.max_input_tokens"));
}

TEST(IsResourceId, TakesLowerCaseDigitsAndInnerHyphensUpTo63) {
  for (const std::string& good : {std::string("a"), std::string("a-1"), std::string(63, 'a')}) {
    EXPECT_TRUE(IsResourceId(good)) << good;
  }
  for (const std::string& bad :
       {std::string(), std::string("1a"), std::string("-a"), std::string("a-"), std::string("a_b"),
        std::string("A"), std::string("a/b"), std::string("a\0b", 3), std::string("襷"),
        std::string(64, 'a')}) {
    EXPECT_FALSE(IsResourceId(bad)) << bad;
  }
}

TEST(LabelOfValue, FindsTheLabelThatAValueMeans) {
  v1::TrainingJob job = FineTuningOf({"a"});
  v1::Task& task = *job.mutable_fine_tuning()->mutable_tasks(0);
  task.mutable_labels(1)->add_values("4");
  task.mutable_labels(1)->add_values("5");
  ASSERT_THAT(FieldsAtFault(job), IsEmpty());
  EXPECT_EQ(LabelOfValue(task, "negative"), 0);
  EXPECT_EQ(LabelOfValue(task, "5"), 1);
  EXPECT_EQ(LabelOfValue(task, "positive"), -1);
}

}  // namespace
}  // namespace tasuki
