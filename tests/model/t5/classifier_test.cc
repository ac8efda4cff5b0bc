#include "model/t5/classifier.h"

#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>

#include <cmath>
#include <functional>
#include <new>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/files/model_directory.h"
#include "tests/model/t5/tiny_t5.h"

namespace tasuki {
namespace {

using ::testing::HasSubstr;

v1::Task TaskOf(const std::string& name, const std::vector<std::string>& labels) {
  v1::Task task;
  task.set_name(name);
  task.set_prefix(name + ": ");
  for (const std::string& label : labels) task.add_labels()->set_name(label);
  return task;
}

internal::ModelManifest Manifest() {
  internal::ModelManifest manifest;
  *manifest.add_tasks() = TaskOf("sentiment", {"negative", "neutral", "positive"});
  *manifest.add_tasks() = TaskOf("counterfactual", {"0", "1"});
  manifest.set_max_input_tokens(24);
  return manifest;
}

// A version's directory with two tasks and a tokenizer trained on a few sentences.
class ClassifierTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    std::vector<std::string> texts;
    for (const char* thing : {"the phone", "this lens", "my kettle", "a lamp", "that chair"}) {
      for (const char* verdict : {"is very good", "was rather bad", "works", "broke in a week"}) {
        texts.push_back(absl::StrCat(thing, " ", verdict, "; sentiment: counterfactual: "));
      }
    }
    TokenizerTraining training;
    training.vocabulary_size = 80;
    training.required_texts = {"negative", "neutral", "positive", "0", "1"};
    origin_ = new TemporaryDirectory;
    ASSERT_TRUE(TrainTokenizer(texts, training, origin_->At("spiece.model")).ok());
  }
  static void TearDownTestSuite() { delete origin_; }

  ClassifierTest() {
    std::filesystem::copy(origin_->At("spiece.model"), directory_.At("spiece.model"));
    config_ = TinyConfig();
    config_.vocab_size = Tokenizer::Load(directory_.At("spiece.model")).value()->size() + 5;
    EXPECT_TRUE(config_.Write(directory_.At("config.json")).ok());
    EXPECT_TRUE(WriteWeights(directory_.path(), TinyWeights(config_)).ok());
    EXPECT_TRUE(WriteManifest(directory_.path(), Manifest()).ok());
  }

  std::unique_ptr<Classifier> Load() { return Classifier::Load(directory_.path(), {}).value(); }

  static TemporaryDirectory* origin_;
  TemporaryDirectory directory_;
  T5Config config_;
};

TemporaryDirectory* ClassifierTest::origin_ = nullptr;

TEST_F(ClassifierTest, AnswersDistributionsOfMixedTasks) {
  const auto classifier = Load();
  EXPECT_EQ(classifier->TaskIndex("sentiment"), 0);
  EXPECT_EQ(classifier->TaskIndex("counterfactual"), 1);
  EXPECT_EQ(classifier->TaskIndex("x"), -1);
  EXPECT_EQ(classifier->manifest().tasks_size(), 2);
  EXPECT_GT(classifier->memory_bytes(), 10000);

  const Classifier::Input first = classifier->Prepare(0, "the lamp is good").value();
  const Classifier::Input second = classifier->Prepare(1, "a week").value();
  const auto scores = classifier->Score({&first, &second}).value();
  ASSERT_EQ(scores.size(), 2);
  ASSERT_EQ(scores[0].size(), 3);
  ASSERT_EQ(scores[1].size(), 2);
  for (const std::vector<float>& labels : scores) {
    double sum = 0;
    for (float score : labels) sum += std::exp(score);
    EXPECT_NEAR(sum, 1, 1e-5);
  }
}

TEST_F(ClassifierTest, AnswersTheSameFromEveryThread) {
  const auto classifier = Load();
  const Classifier::Input input = classifier->Prepare(0, "the lamp is good").value();
  const std::vector<float> expected = classifier->Score({&input}).value()[0];
  std::vector<std::vector<float>> answers(4);
  std::vector<std::thread> threads;
  for (std::vector<float>& answer : answers) {
    threads.emplace_back([&] { answer = classifier->Score({&input}).value()[0]; });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<float>& answer : answers) EXPECT_EQ(answer, expected);
}

TEST_F(ClassifierTest, AnswersByAnAdapterAndItsBaseAsByMergedWeights) {
  const auto base = LoadedBase::Load(directory_.path(), {}).value();
  v1::Lora lora = LoraOf(AllModules(config_.gated));
  const Adapter adapter = LearntAdapter(config_, lora);
  internal::ModelManifest manifest = Manifest();
  *manifest.mutable_lora() = lora;
  const auto write = [&](const std::string& directory) {
    std::filesystem::copy(directory_.path(), directory);
    EXPECT_TRUE(WriteAdapter(directory + "/" + kAdapterDirectory, adapter, lora, "base@1").ok());
    EXPECT_TRUE(WriteWeights(directory, Merge(TinyWeights(config_), adapter)).ok());
    EXPECT_TRUE(WriteManifest(directory, manifest).ok());
  };
  TemporaryDirectory parent;
  const std::string directory = parent.At("adapter");
  write(directory);
  const auto merged = Classifier::Load(directory, ClassifierOptions()).value();
  std::filesystem::remove(directory + "/model.safetensors");
  const auto shared = Classifier::LoadAdapter(directory, base).value();
  const Classifier::Input input = shared->Prepare(0, "the lamp is good").value();
  const auto scores = shared->Score({&input}).value()[0];
  const auto expected = merged->Score({&input}).value()[0];
  const auto of_base = Load()->Score({&input}).value()[0];
  double change = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    EXPECT_NEAR(scores[i], expected[i], 1e-4);
    change = std::max<double>(change, std::abs(scores[i] - of_base[i]));
  }
  EXPECT_GT(change, .01);
  EXPECT_LT(shared->memory_bytes(), base->memory_bytes());

  // What does not fit the base is refused.
  manifest.mutable_lora()->set_rank(3);
  ASSERT_TRUE(WriteManifest(directory, manifest).ok());
  absl::Status status = Classifier::LoadAdapter(directory, base).status();
  EXPECT_EQ(ReasonOf(status), v1::MODEL_INVALID);
  EXPECT_THAT(status.message(), HasSubstr("lora_A.weight has shape [2, 16], not [3, 16]"));
  manifest.clear_lora();
  ASSERT_TRUE(WriteManifest(directory, manifest).ok());
  EXPECT_EQ(ReasonOf(Classifier::LoadAdapter(directory, base).status()), v1::MODEL_INVALID);
}

TEST_F(ClassifierTest, PutsThePrefixBeforeTheTextAndTheEndBehind) {
  const auto classifier = Load();
  const auto tokenizer = Tokenizer::Load(directory_.At("spiece.model")).value();
  std::vector<int32_t> expected = tokenizer->Encode("sentiment: my lens").value();
  expected.push_back(tokenizer->eos_id());
  const Classifier::Input input = classifier->Prepare(0, "my lens").value();
  EXPECT_EQ(input.tokens, expected);
  EXPECT_EQ(input.token_count, expected.size());
  EXPECT_FALSE(input.truncated);
  EXPECT_EQ(classifier->Prepare(0, "\xff").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ClassifierTest, CutsLongTextsBeforeTheEndAndSaysSo) {
  const auto classifier = Load();
  std::string text;
  Classifier::Input input;
  do {
    text += "a";
    input = classifier->Prepare(1, text).value();
    EXPECT_EQ(input.truncated, input.token_count > 24);
    EXPECT_EQ(input.tokens.size(), std::min(input.token_count, 24));
    EXPECT_EQ(input.tokens.back(), config_.eos_token_id);
  } while (input.token_count < 30);
  EXPECT_TRUE(classifier->Score({&input}).ok());
}

TEST_F(ClassifierTest, CutsTheMiddleOutIfAsked) {
  const auto classifier = Load();
  const auto tokenizer = Tokenizer::Load(directory_.At("spiece.model")).value();
  const std::string text = "the lamp is good and the lens is bad and a week is long and my lamp";
  const std::vector<int32_t> whole = tokenizer->Encode("counterfactual: " + text).value();
  ASSERT_GT(whole.size(), 30);
  std::vector<int32_t> expected(whole.begin(), whole.begin() + 12);  // of 23 beside the end
  expected.insert(expected.end(), whole.end() - 11, whole.end());
  expected.push_back(tokenizer->eos_id());
  const Classifier::Input input =
      classifier->Prepare(1, text, Classifier::Truncation::kHeadAndTail).value();
  EXPECT_EQ(input.tokens, expected);
  EXPECT_EQ(input.token_count, whole.size() + 1);
  EXPECT_TRUE(input.truncated);
  EXPECT_EQ(classifier->Prepare(1, "lamp", Classifier::Truncation::kHeadAndTail)->tokens,
            classifier->Prepare(1, "lamp")->tokens);
}

TEST_F(ClassifierTest, NeedsATask) {
  ASSERT_TRUE(WriteManifest(directory_.path(), {}).ok());
  EXPECT_EQ(Classifier::Load(directory_.path(), {}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(CheckModelDirectory(directory_.path()).ok());
  std::filesystem::remove(directory_.At("tasuki.json"));
  EXPECT_EQ(Classifier::Load(directory_.path(), {}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(ClassifierTest, CheckCountsTheWeights) {
  int64_t expected = 0;
  for (const auto& [name, weight] : TinyWeights(config_)) expected += weight.numel();
  EXPECT_EQ(CheckModelDirectory(directory_.path()).value(), expected);
}

TEST_F(ClassifierTest, RefusesMalformedDirectoriesAndNamesFileAndCause) {
  const auto write = [&](const std::string& name, const std::string& bytes) {
    ASSERT_TRUE(WriteFile(directory_.At(name), bytes).ok());
  };
  struct Case {
    std::string file;
    std::function<void()> spoil;
    std::string cause;
  };
  const std::string weights = ReadFile(directory_.At("model.safetensors")).value();
  const std::vector<Case> cases = {
      {"config.json", [&] { std::filesystem::remove(directory_.At("config.json")); },
       "config.json: the file is missing"},
      {"spiece.model", [&] { std::filesystem::remove(directory_.At("spiece.model")); },
       "spiece.model: the file is missing"},
      {"model.safetensors", [&] { std::filesystem::remove(directory_.At("model.safetensors")); },
       "model.safetensors: the file is missing"},
      {"config.json", [&] { write("config.json", "{}"); }, "model_type is not one of"},
      {"spiece.model", [&] { write("spiece.model", "no model"); }, "spiece.model"},
      {"model.safetensors", [&] { write("model.safetensors", weights.substr(0, 5000)); },
       "model.safetensors"},
      {"config.json",
       [&] {
         T5Config config = config_;
         config.vocab_size -= 6;
         ASSERT_TRUE(config.Write(directory_.At("config.json")).ok());
       },
       "tokens with the sentinels"},
      {"config.json",
       [&] {
         T5Config config = config_;
         config.eos_token_id = 5;
         ASSERT_TRUE(config.Write(directory_.At("config.json")).ok());
       },
       "pad_token_id and eos_token_id are 0 and 5, in spiece.model 0 and 1"},
      {"config.json",
       [&] {
         T5Config config = config_;
         config.d_ff = 25;
         ASSERT_TRUE(config.Write(directory_.At("config.json")).ok());
       },
       "DenseReluDense.wi.weight has shape [24, 16], not [25, 16]"},
  };
  for (const Case& c : cases) {
    const std::string kept = ReadFile(directory_.At(c.file)).value();
    c.spoil();
    for (const absl::Status& status : {CheckModelDirectory(directory_.path()).status(),
                                       Classifier::Load(directory_.path(), {}).status()}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.cause;
      EXPECT_EQ(ReasonOf(status), v1::MODEL_INVALID) << c.cause;
      EXPECT_THAT(std::string(status.message()), HasSubstr(c.cause));
    }
    write(c.file, kept);
  }
  EXPECT_TRUE(CheckModelDirectory(directory_.path()).ok());
}

TEST_F(ClassifierTest, RefusesManifestsThatDoNotFit) {
  internal::ModelManifest manifest = Manifest();
  *manifest.add_tasks() = TaskOf("same", {"one", "one "});
  ASSERT_TRUE(WriteManifest(directory_.path(), manifest).ok());
  EXPECT_EQ(ReasonOf(CheckModelDirectory(directory_.path()).status()), v1::LABEL_INDISTINCT);

  manifest = Manifest();
  manifest.set_max_input_tokens(1 << 30);
  manifest.mutable_tasks(0)->clear_labels();
  manifest.mutable_tasks(1)->set_weight(std::nan(""));
  ASSERT_TRUE(WriteManifest(directory_.path(), manifest).ok());
  for (const absl::Status& status : {CheckModelDirectory(directory_.path()).status(),
                                     Classifier::Load(directory_.path(), {}).status()}) {
    EXPECT_EQ(ReasonOf(status), v1::MODEL_INVALID);
    for (const char* fault :
         {"tasuki.json: tasks[0].labels: ", "tasks[1].weight: ", "max_input_tokens: "}) {
      EXPECT_THAT(status.message(), HasSubstr(fault));
    }
  }

  for (const auto& [temperature, threshold] :
       {std::pair(0.0, .5), {-1.0, .5}, {std::nan(""), .5}, {21.0, .5}, {1.0, 1.5}, {1.0, -.1}}) {
    manifest = Manifest();
    manifest.add_calibrations()->set_task("sentiment");
    manifest.mutable_calibrations(0)->set_temperature(temperature);
    manifest.mutable_calibrations(0)->set_abstain_threshold(threshold);
    ASSERT_TRUE(WriteManifest(directory_.path(), manifest).ok());
    const absl::Status status = CheckModelDirectory(directory_.path()).status();
    EXPECT_EQ(ReasonOf(status), v1::FILE_CHANGED) << temperature << " " << threshold;
    EXPECT_THAT(status.message(), HasSubstr("the calibration of task sentiment"));
  }

  ASSERT_TRUE(WriteFile(directory_.At("tasuki.json"), "{").ok());
  EXPECT_EQ(Classifier::Load(directory_.path(), {}).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(ClassifierTest, SaysThatMemoryRanOut) {
  struct NoMemory : c10::Allocator {
    c10::DataPtr allocate(size_t) override { throw std::bad_alloc(); }
    void copy_data(void* to, const void* from, std::size_t count) const override {
      default_copy_data(to, from, count);
    }
  } no_memory;
  const auto classifier = Load();
  const Classifier::Input input = classifier->Prepare(0, "a lamp").value();
  c10::Allocator* const usual = c10::GetCPUAllocator();
  c10::SetCPUAllocator(&no_memory);
  const absl::Status scored = classifier->Score({&input}).status();
  const absl::Status loaded = Classifier::Load(directory_.path(), {}).status();
  c10::SetCPUAllocator(usual);
  for (const absl::Status& status : {scored, loaded}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_EQ(ReasonOf(status), v1::OUT_OF_MEMORY);
  }
  EXPECT_TRUE(classifier->Score({&input}).ok());
}

TEST_F(ClassifierTest, RefusesADeviceThatIsNotThere) {
  ClassifierOptions options;
  options.device = "cuda:0";
  const absl::Status status = Classifier::Load(directory_.path(), options).status();
  EXPECT_FALSE(status.ok());
  EXPECT_NE(ReasonOf(status), v1::ERROR_REASON_UNSPECIFIED);
}

}  // namespace
}  // namespace tasuki
