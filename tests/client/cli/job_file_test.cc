#include "client/cli/job_file.h"

#include <gmock/gmock.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <filesystem>

namespace tasuki::cli {
namespace {

using ::testing::HasSubstr;

std::optional<std::string> Defined(const std::string& name) {
  if (name == "TRAIN") return "d-1";
  if (name == "SIX") return "6";
  if (name == "EMPTY") return "";
  if (name == "TRICKY") return "a: [b\nc\": \"${TRAIN}";
  return std::nullopt;
}

TEST(JobFile, BecomesAJob) {
  struct Case {
    const char* yaml;
    const char* job;
  };
  const Case cases[] = {
      {"display_name: 123", "display_name: '123'"},
      {"display_name: no", "display_name: 'no'"},
      {"display_name: 1.0", "display_name: '1.0'"},
      {"display_name: とても", "display_name: 'とても'"},
      {"{\"display_name\": \"in JSON\", \"model\": \"models/m\"}",
       "display_name: 'in JSON' model: 'models/m'"},
      {"model: reviews", "model: 'models/reviews'"},
      {"fine_tuning:\n  base_model_version: tiny@2",
       "fine_tuning { base_model_version: 'models/tiny/versions/2' }"},
      {"fine_tuning:\n  recipe: {epochs: 3, learning_rate: 3e-4, optimizer: ADAFACTOR}",
       "fine_tuning { recipe { epochs: 3 learning_rate: 3e-4 optimizer: ADAFACTOR } }"},
      {"fine_tuning:\n  recipe: {epochs: \"3\", optimizer: adafactor, weight_decay: 0}",
       "fine_tuning { recipe { epochs: 3 optimizer: ADAFACTOR weight_decay: 0 } }"},
      {"fine_tuning:\n  recipe:\n    epochs:\n", "fine_tuning { recipe {} }"},
      {"fine_tuning:\n  tasks:\n  - name: t\n    prefix: ''\n    train_dataset: ${TRAIN}\n"
       "    labels: [{name: no, values: [0, no, 1e3]}]",
       "fine_tuning { tasks { name: 't' prefix: '' train_dataset: 'datasets/d-1'"
       "  labels { name: 'no' values: '0' values: 'no' values: '1e3' } } }"},
      {"pretraining:\n  datasets: [\"${TRAIN}\", datasets/d-2]",
       "pretraining { datasets: 'datasets/d-1' datasets: 'datasets/d-2' }"},
      {"pretraining:\n  recipe: {epochs: \"${SIX}${EMPTY}0\"}",
       "pretraining { recipe { epochs: 60 } }"},
      {"display_name: $${TRAIN} costs 5$", "display_name: '${TRAIN} costs 5$'"},
      {"display_name: '${TRICKY}'", "display_name: 'a: [b\\nc\": \"${TRAIN}'"},
      {"fine_tuning:\n  recipe: &r {epochs: 2}\npretraining:\n",
       "fine_tuning { recipe { epochs: 2 } }"},
  };
  for (const Case& c : cases) {
    v1::TrainingJob expected;
    ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(c.job, &expected)) << c.job;
    const auto job = ParseJob("job.yaml", c.yaml, Defined);
    ASSERT_TRUE(job.ok()) << c.yaml << "\n" << job.status();
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(*job, expected))
        << c.yaml << "\n"
        << job->DebugString();
  }
}

TEST(JobFile, SaysWhereItIsWrong) {
  struct Case {
    const char* yaml;
    const char* fault;
  };
  const Case cases[] = {
      {"", "job.yaml:1: the file must hold one job"},
      {"- model: m", "job.yaml:1: the file must hold one job"},
      {"model: m\n---\nmodel: n", "job.yaml:1: the file must hold one job"},
      {"model: [m\n", "not valid YAML"},
      {"display_name: \xff", "job.yaml:1: the file is not UTF-8"},
      {"model: m\nmodel: n", "job.yaml:2: model stands here a second time"},
      {"fine_tuning:\n  recipe:\n    epochs: 1\n    epochs: 1",
       "job.yaml:4: fine_tuning.recipe.epochs stands here a second time"},
      {"model: m\nbase: x", "job.yaml:2: base is not a field of TrainingJob, which has"},
      {"fine_tuning:\n  recipe:\n    epoch: 1",
       "job.yaml:3: fine_tuning.recipe.epoch is not a field of Recipe, which has epochs, steps"},
      {"fine_tuning:\n  tasks:\n  - name: a\n  - name: b\n    wieght: 1",
       "job.yaml:5: fine_tuning.tasks[1].wieght is not a field of Task"},
      {"fine_tuning:\n  baseModelVersion: m",
       "job.yaml:2: fine_tuning.baseModelVersion: fields are"},
      {"fine_tuning:\n  recipe:\n    epochs: many",
       "job.yaml:3: fine_tuning.recipe.epochs: \"many\" is not a whole number"},
      {"fine_tuning:\n  recipe:\n    epochs: 2.5", "\"2.5\" is not a whole number"},
      {"fine_tuning:\n  recipe:\n    time_limit: 1h", "is not a time in seconds, such as 3600s"},
      {"fine_tuning:\n  recipe:\n    epochs: 99999999999", "job.yaml:3:"},
      {"fine_tuning:\n  recipe:\n    dropout: a bit",
       "job.yaml:3: fine_tuning.recipe.dropout: \"a bit\" is not a number"},
      {"fine_tuning:\n  recipe:\n    optimizer: sgd",
       "job.yaml:3: fine_tuning.recipe.optimizer: \"sgd\" is not one of ADAMW, ADAFACTOR"},
      {"fine_tuning:\n  tasks:\n  - labels: [a, b]", "is not a Label, which is a map of fields"},
      {"pretraining:\n  datasets:\n  - d-1\n  -\n",
       "job.yaml:3: pretraining.datasets has an empty"},
      {"fine_tuning: {recipe: {}}\npretraining: {vocabulary_size: 9}", "job.yaml:1:"},
      {"model: m\ndisplay_name: ${MISSING}", "job.yaml:2: the variable MISSING is not defined"},
      {"display_name: ${1X}", "job.yaml:1: \"${1X}\" is not a variable of the form ${NAME}"},
      {"display_name: ${TRAIN", "\"${TRAIN\" is not a variable of the form ${NAME}"},
      {"? [a]\n: b", "job.yaml:1: a key must be the name of a field"},
      {"a: &a [*a]", "nested too deeply"},
  };
  for (const Case& c : cases) {
    const auto job = ParseJob("job.yaml", c.yaml, Defined);
    EXPECT_TRUE(absl::IsInvalidArgument(job.status())) << c.yaml;
    EXPECT_THAT(std::string(job.status().message()), HasSubstr(c.fault)) << c.yaml;
  }
}

TEST(JobFile, NamesAllFaultsOfItsWritingAtOnce) {
  const auto job = ParseJob("job.yaml", "model: ${A}\nmodel: ${B}\ndisplay_name: ${C}", Defined);
  EXPECT_EQ(job.status().message(),
            "job.yaml:1: the variable A is not defined; give --set A=VALUE or set it in the "
            "environment\n"
            "job.yaml:2: model stands here a second time\n"
            "job.yaml:2: the variable B is not defined; give --set B=VALUE or set it in the "
            "environment\n"
            "job.yaml:3: the variable C is not defined; give --set C=VALUE or set it in the "
            "environment");
}

TEST(JobFile, NamesAllFaultsOfItsValuesAtOnce) {
  const auto job = ParseJob("job.yaml",
                            "model: m\n"
                            "fine_tuning:\n"
                            "  recipe:\n"
                            "    epochs: many\n"
                            "    learning_rate: fast\n"
                            "    colour: red\n"
                            "  tasks:\n"
                            "  - no task\n"
                            "  - {name: t, weight: heavy}\n",
                            Defined);
  for (const char* fault :
       {":4: fine_tuning.recipe.epochs: ", ":5: fine_tuning.recipe.learning_rate",
        ":6: fine_tuning.recipe.colour is not a field", ":8: fine_tuning.tasks[0]",
        ":9: fine_tuning.tasks[1].weight: "}) {
    EXPECT_THAT(job.status().message(), HasSubstr(fault));
  }
}

TEST(JobFile, ExpandsNoBombOfAliases) {
  std::string yaml = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 9; ++i) {
    const std::string before = "*a" + std::to_string(i - 1);
    const std::string name = "a" + std::to_string(i);
    yaml += name + ": &" + name + " [" + before;
    for (int j = 0; j < 9; ++j) yaml += ", " + before;
    yaml += "]\n";
  }
  EXPECT_THAT(std::string(ParseJob("job.yaml", yaml, Defined).status().message()),
              HasSubstr("too large for a job"));
}

TEST(JobFile, ExamplesParse) {
  const std::map<std::string, std::map<std::string, std::string>> examples = {
      {"pretrain-tiny", {{"TEXTS", "d-1"}}},
      {"evaluation", {{"VERSION", "sentiment@2"}, {"ROWS", "d-1"}}},
      {"single-task", {{"BASE", "tiny"}, {"TRAIN", "d-1"}, {"VALID", "d-2"}, {"TEST", "d-3"}}},
      {"lora", {{"BASE", "tiny"}, {"TRAIN", "d-1"}, {"VALID", "d-2"}, {"TEST", "d-3"}}},
      {"multi-task",
       {{"BASE", "tiny@2"},
        {"COUNTERFACTUAL_TRAIN", "d-1"},
        {"COUNTERFACTUAL_VALID", "d-2"},
        {"COUNTERFACTUAL_TEST", "d-3"},
        {"SENTIMENT_TRAIN", "d-4"},
        {"SENTIMENT_VALID", "d-5"},
        {"SENTIMENT_TEST", "d-6"}}}};
  size_t files = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(TASUKI_SOURCE_DIR "/client/cli/examples")) {
    ++files;
    const auto job = ReadJobFile(entry.path(), examples.at(entry.path().stem()));
    EXPECT_TRUE(job.ok()) << job.status();
  }
  EXPECT_EQ(files, examples.size());
  const auto evaluation = ReadJobFile(TASUKI_SOURCE_DIR "/client/cli/examples/evaluation.yaml",
                                      examples.at("evaluation"));
  EXPECT_EQ(evaluation->evaluation().model_version(), "models/sentiment/versions/2");
  EXPECT_EQ(evaluation->evaluation().tasks(0).test_dataset(), "datasets/d-1");
  const auto lora =
      ReadJobFile(TASUKI_SOURCE_DIR "/client/cli/examples/lora.yaml", examples.at("lora"));
  EXPECT_EQ(lora->fine_tuning().lora().rank(), 8);
  EXPECT_EQ(lora->fine_tuning().lora().target_modules_size(), 4);
}

TEST(JobFile, TakesVariablesFromTheCommandLineBeforeTheEnvironment) {
  const std::string path = TASUKI_SOURCE_DIR "/client/cli/examples/pretrain-tiny.yaml";
  ASSERT_EQ(setenv("TEXTS", "d-environment", 1), 0);
  EXPECT_EQ(ReadJobFile(path, {})->pretraining().datasets(0), "datasets/d-environment");
  EXPECT_EQ(ReadJobFile(path, {{"TEXTS", "d-set"}})->pretraining().datasets(0), "datasets/d-set");
  unsetenv("TEXTS");
  EXPECT_TRUE(absl::IsInvalidArgument(ReadJobFile(path, {}).status()));
  EXPECT_THAT(std::string(ReadJobFile(path, {{"TEXTS", "d"}, {"TXTS", "d"}}).status().message()),
              HasSubstr("has no ${TXTS}"));
}

TEST(JobFile, ThatCannotBeReadIsNamed) {
  const absl::Status status = ReadJobFile("/nowhere/job.yaml", {}).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nowhere/job.yaml"));
  EXPECT_THAT(std::string(ReadJobFile("/", {}).status().message()),
              HasSubstr("cannot read /: Is a directory"));
}

}  // namespace
}  // namespace tasuki::cli
