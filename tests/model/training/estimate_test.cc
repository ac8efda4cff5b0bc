#include "model/training/estimate.h"

#include <ATen/ATen.h>
#include <malloc.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/errors/errors.h"
#include "model/recipe/recipe.h"
#include "tests/model/training/tiny_base.h"

namespace tasuki {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

int64_t StatusBytes(const std::string& name) {
  std::ifstream file("/proc/self/status");
  for (std::string word; file >> word;) {
    int64_t kilobytes = 0;
    if (word == name + ":" && file >> kilobytes) return kilobytes * 1024;
  }
  return 0;
}

class EstimateTest : public ::testing::Test {
 protected:
  EstimateTest() {
    tokenizer_ = MakeTokenizer(folder_ / "tokenizer");
    places_.base_directory = folder_ / "base";
    places_.checkpoints_directory = folder_ / "checkpoints";
    places_.result_directory = folder_ / "result";
    places_.training_job = "trainingJobs/t";
  }

  void MakeBaseOf(const T5Config& config) {
    const absl::Status written = WriteResult(
        places_.base_directory, T5(config, InitialWeights(config, 1)), folder_ / "tokenizer", {});
    ASSERT_TRUE(written.ok()) << written;
  }

  // `rows` rows of as many opinions each.
  void AddDataset(const std::string& name, int rows, int opinions) {
    std::vector<v1::Example> all;
    for (int i = 0; i < rows; ++i) {
      v1::Example& example = all.emplace_back(Opinions()[i % 128]);
      std::string text;
      for (int j = 0; j < opinions; ++j) {
        absl::StrAppend(&text, Opinions()[(i * 7 + j) % 128].text(), " ");
      }
      example.set_text(text);
    }
    WriteExamples(folder_ / name, all);
    places_.datasets["datasets/" + name] = folder_ / name;
  }

  static v1::TrainingJob JobOf(const std::function<void(v1::Recipe&)>& change) {
    v1::TrainingJob job;
    job.set_model("models/mood");
    v1::FineTuning& work = *job.mutable_fine_tuning();
    work.set_base_model_version("models/base/versions/1");
    *work.add_tasks() = MoodTask();
    change(*work.mutable_recipe());
    Faults faults;
    ResolveJob(job, faults);
    EXPECT_TRUE(faults.empty()) << faults.ToStatus();
    return job;
  }

  v1::EstimateTrainingJobResponse EstimateOf(const v1::TrainingJob& job) {
    const StopSignal stop;
    const auto estimate = Estimate(job, places_, {}, stop);
    EXPECT_TRUE(estimate.ok()) << estimate.status();
    return estimate.ok() ? *estimate : v1::EstimateTrainingJobResponse();
  }

  // Bytes that this process took at most while it trained, above what it had before.
  int64_t MeasuredPeak(const v1::TrainingJob& job) {
    malloc_trim(0);
    std::ofstream("/proc/self/clear_refs") << 5;  // forgets the earlier peak
    const int64_t before = StatusBytes("VmRSS");
    const StopSignal stop;
    Silence silence;
    const auto outcome = Train(job, places_, {}, stop, silence);
    EXPECT_TRUE(outcome.ok()) << outcome.status();
    return StatusBytes("VmHWM") - before;
  }

  // The estimate must be within a factor of two of what is measured, as the documents say.
  void ExpectTheMeasuredPeak(const v1::TrainingJob& job) {
#ifdef __SANITIZE_ADDRESS__
    GTEST_SKIP() << "AddressSanitizer keeps what was freed";
#endif
    std::filesystem::remove_all(places_.checkpoints_directory);  // of a job before
    std::filesystem::remove_all(places_.result_directory);
    const int64_t measured = MeasuredPeak(job);
    const auto memory = EstimateOf(job).memory();
    const int64_t estimated = memory.peak_bytes() - memory.program_bytes();
    RecordProperty("measured_mib", static_cast<int>(measured >> 20));
    RecordProperty("estimated_mib", static_cast<int>(estimated >> 20));
    std::printf("peak: measured %lld MiB, estimated %lld MiB\n",
                static_cast<long long>(measured >> 20), static_cast<long long>(estimated >> 20));
    EXPECT_GT(estimated * 2, measured);
    EXPECT_LT(estimated, measured * 2);
  }

  const Folder folder_;
  std::unique_ptr<Tokenizer> tokenizer_;
  TrainingPlaces places_;
};

TEST_F(EstimateTest, CountsStepsAndTokensAndMeasuresSpeed) {
  MakeBaseOf(TinyConfig(*tokenizer_));
  AddDataset("train", 50, 1);
  v1::TrainingJob job = JobOf([](v1::Recipe& recipe) { recipe.set_epochs(3); });
  const auto estimate = EstimateOf(job);
  int64_t tokens = 0;
  size_t longest = 0;
  for (int i = 0; i < 50; ++i) {
    const size_t length = tokenizer_->Encode(Opinions()[i * 7 % 128].text() + " ")->size() + 1;
    tokens += static_cast<int64_t>(length);
    longest = std::max(longest, length);
  }
  EXPECT_EQ(estimate.steps(), 21);
  EXPECT_EQ(estimate.examples(), 150);
  EXPECT_EQ(estimate.input_tokens(), 3 * tokens);
  EXPECT_EQ(estimate.longest_input_tokens(), longest);
  EXPECT_GE(estimate.target_tokens(), 2 * 150);
  EXPECT_GT(estimate.measured_steps(), 0);
  EXPECT_GT(estimate.tokens_per_second(), 0);
  EXPECT_GT(estimate.training_duration().seconds() + estimate.training_duration().nanos(), 0);
  EXPECT_EQ(estimate.evaluation_duration().nanos(), 0);  // nothing to evaluate on
  EXPECT_THAT(estimate.notes(), Contains(HasSubstr("Times rest on 20 steps of this job")));
}

TEST_F(EstimateTest, CountsEvaluationsAndPassesWarningsOn) {
  MakeBaseOf(TinyConfig(*tokenizer_));
  AddDataset("train", 50, 3);
  v1::TrainingJob job = JobOf([](v1::Recipe& recipe) { recipe.set_max_input_tokens(8); });
  job.mutable_fine_tuning()->mutable_tasks(0)->set_valid_dataset("datasets/train");
  const auto estimate = EstimateOf(job);
  EXPECT_EQ(estimate.longest_input_tokens(), 8);
  EXPECT_GT(estimate.evaluation_duration().nanos(), 0);
  EXPECT_THAT(estimate.notes(), Contains(HasSubstr("50 of 50 texts are longer")));
  EXPECT_THAT(estimate.notes(), Contains(HasSubstr("50 of 50 inputs of datasets/train are in the "
                                                   "training rows, too")));
}

TEST_F(EstimateTest, MeasuresNothingWhereMemoryWouldNotSuffice) {
  T5Config config = TinyConfig(*tokenizer_);
  MakeBaseOf(config);
  AddDataset("train", 8, 1);
  // The estimate looks at the shape of the base first; its weights are read only for the steps.
  config.d_ff = int64_t{1} << 20;
  config.d_model = 4096;
  config.num_layers = 48;
  ASSERT_TRUE(config.Write(places_.base_directory + "/config.json").ok());
  const auto estimate = EstimateOf(JobOf([](v1::Recipe&) {}));
  EXPECT_EQ(estimate.measured_steps(), 0);
  EXPECT_FALSE(estimate.has_training_duration());
  EXPECT_GT(estimate.memory().weights_bytes(), int64_t{48} * 2 * 4096 * 4 << 20);
  EXPECT_THAT(estimate.notes(), Contains(HasSubstr("No step was taken")));
}

TEST_F(EstimateTest, CountsGradientsAndStateOfAnAdapterOnly) {
  MakeBaseOf(TinyConfig(*tokenizer_));
  AddDataset("train", 50, 1);
  const auto all = EstimateOf(JobOf([](v1::Recipe&) {})).memory();
  v1::TrainingJob job = JobOf([](v1::Recipe&) {});
  job.mutable_fine_tuning()->mutable_lora()->set_rank(4);
  Faults faults;
  ResolveJob(job, faults);
  const auto memory = EstimateOf(job).memory();
  // Of q and v in three attentions: 4 rows of 32 and 32 rows of 4, in floats.
  constexpr int64_t kAdapter = 2 * 3 * 2 * 4 * 32 * 4;
  EXPECT_EQ(memory.weights_bytes(), all.weights_bytes() + kAdapter);
  EXPECT_EQ(memory.gradients_bytes(), kAdapter);
  EXPECT_EQ(memory.optimizer_bytes(), 2 * kAdapter);
}

TEST_F(EstimateTest, CountsThePretrainingOfATokenizerToo) {
  AddDataset("texts", 60, 2);
  v1::TrainingJob job;
  job.set_model("models/base");
  v1::Pretraining& work = *job.mutable_pretraining();
  work.add_datasets("datasets/texts");
  work.set_vocabulary_size(200);
  work.mutable_recipe()->set_steps(7);
  Faults faults;
  ResolveJob(job, faults);
  ASSERT_TRUE(faults.empty()) << faults.ToStatus();
  const auto estimate = EstimateOf(job);
  EXPECT_EQ(estimate.steps(), 7);
  EXPECT_GT(estimate.input_tokens(), 0);
  EXPECT_LT(estimate.memory().optimizer_bytes(), estimate.memory().weights_bytes() / 10);
  EXPECT_FALSE(std::filesystem::exists(places_.result_directory));
}

TEST_F(EstimateTest, StopsWhenTold) {
  MakeBaseOf(TinyConfig(*tokenizer_));
  AddDataset("train", 50, 1);
  StopSignal stop;
  stop.request = StopSignal::kStop;
  EXPECT_TRUE(absl::IsCancelled(Estimate(JobOf([](v1::Recipe&) {}), places_, {}, stop).status()));
}

TEST_F(EstimateTest, ForeseesThePeakOfActivations) {
  T5Config config = TinyConfig(*tokenizer_);
  config.d_model = 128;
  config.d_kv = 32;
  config.num_heads = 4;
  config.d_ff = 512;
  config.num_layers = 3;
  config.num_decoder_layers = 1;
  MakeBaseOf(config);
  AddDataset("train", 12, 12);
  for (const double dropout : {0.1, 0.0}) {
    ExpectTheMeasuredPeak(JobOf([&](v1::Recipe& recipe) {
      recipe.set_steps(1);
      recipe.set_batch_size(12);
      recipe.set_dropout(dropout);
    }));
  }
}

TEST_F(EstimateTest, ForeseesThePeakOfAnAdapter) {
  T5Config config = TinyConfig(*tokenizer_);
  config.d_model = 256;
  config.d_kv = 64;
  config.num_heads = 4;
  config.d_ff = 1024;
  config.num_layers = config.num_decoder_layers = 3;
  MakeBaseOf(config);
  AddDataset("train", 12, 12);
  v1::TrainingJob job = JobOf([](v1::Recipe& recipe) {
    recipe.set_steps(1);
    recipe.set_batch_size(12);
  });
  v1::Lora& lora = *job.mutable_fine_tuning()->mutable_lora();
  for (const char* module : {"q", "k", "v", "o", "wi", "wo"}) lora.add_target_modules(module);
  for (const double dropout : {0.1, 0.0}) {
    lora.set_dropout(dropout);
    Faults faults;
    ResolveJob(job, faults);
    ExpectTheMeasuredPeak(job);
  }
}

TEST_F(EstimateTest, ForeseesThePeakOfWeights) {
  T5Config config = TinyConfig(*tokenizer_);
  config.d_model = 512;
  config.d_kv = 64;
  config.num_heads = 8;
  config.d_ff = 2048;
  config.gated = true;
  config.tie_word_embeddings = false;
  config.num_layers = config.num_decoder_layers = 2;
  MakeBaseOf(config);
  AddDataset("train", 8, 1);
  for (const auto optimizer : {v1::Recipe::ADAMW, v1::Recipe::ADAFACTOR}) {
    ExpectTheMeasuredPeak(JobOf([&](v1::Recipe& recipe) {
      recipe.set_steps(1);
      recipe.set_optimizer(optimizer);
    }));
  }
}

}  // namespace
}  // namespace tasuki
