#include "model/t5/scorer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <set>
#include <sstream>

#include "gtest/gtest.h"
#include "model/t5/adapter.h"
#include "model/t5/cpu_scorer.h"
#include "model/t5/t5.h"
#include "model/t5/torch_scorer.h"
#include "tests/model/t5/golden.h"
#include "tests/model/t5/tiny_t5.h"
#include "tests/testing/fake_graphs.h"

namespace tasuki {
namespace {

using at::Tensor;

const std::vector<std::vector<std::string>>& LabelSets() {
  static const std::vector<std::vector<std::string>> kSets = {
      {"a", "b", "c"},                            // the root alone branches
      {"ab", "abc", "b"},                         // a prefix of another
      {"xyab", "xyac", "xyacd", "xyb", "xybaaa"}  // several rows before and after branches
  };
  return kSets;
}

// log p of each label by T5's own decoder: at each position where labels with the same beginning go
// on differently, log-softmax over their next tokens.
std::vector<double> ByFullDecoding(const T5& t5, const std::vector<int32_t>& input,
                                   const LabelTrie& trie) {
  const c10::NoGradGuard no_grad;
  const PackedTokens packed = PackedTokens::Of({input}, at::kCPU);
  const Tensor encoded = t5.Encode(packed, {});
  std::vector<double> scores;
  for (int label = 0; label < trie.label_count(); ++label) {
    const std::vector<int32_t>& target = trie.target(label);
    const Tensor logits = t5.Logits(t5.Decode(
        PackedTokens::Of({ShiftRight(target, t5.config())}, at::kCPU), encoded, packed, {}));
    double score = 0;
    for (size_t position = 0; position < target.size(); ++position) {
      std::set<int32_t> next;
      for (int other = 0; other < trie.label_count(); ++other) {
        const std::vector<int32_t>& tokens = trie.target(other);
        if (tokens.size() > position &&
            std::equal(target.begin(), target.begin() + position, tokens.begin())) {
          next.insert(tokens[position]);
        }
      }
      double sum = 0;
      for (int32_t token : next) sum += std::exp(logits[position][token].item<double>());
      if (next.size() > 1) {
        score += logits[position][target[position]].item<double>() - std::log(sum);
      }
    }
    scores.push_back(score);
  }
  return scores;
}

// Largest |Δ log p| of a text in random batches of up to 40 against the text alone.
double LargestDifferenceInRandomBatches(const T5Scorer& scorer, const T5Config& config,
                                        int batches) {
  std::vector<LabelTrie> tries;
  for (const std::vector<std::string>& labels : LabelSets()) tries.push_back(TrieOf(labels));
  std::mt19937 random(9);
  std::vector<std::vector<int32_t>> texts;
  std::vector<T5Scorer::Input> inputs;
  for (int i = 0; i < 40; ++i) {
    const int length = 1 + static_cast<int>(random() % (i % 8 == 0 ? 200 : 40));
    texts.push_back(RandomTokens(length, random, config.vocab_size));
  }
  for (int i = 0; i < 40; ++i) inputs.push_back({&texts[i], &tries[i % tries.size()]});
  std::vector<std::vector<float>> alone;
  for (const T5Scorer::Input& input : inputs) alone.push_back(scorer.Score({input})[0]);

  double largest = 0;
  for (int round = 0; round < batches; ++round) {
    std::vector<size_t> chosen(1 + random() % inputs.size());
    std::vector<T5Scorer::Input> batch;
    for (size_t& index : chosen) batch.push_back(inputs[index = random() % inputs.size()]);
    const std::vector<std::vector<float>> together = scorer.Score(batch);
    EXPECT_EQ(together.size(), batch.size());
    for (size_t i = 0; i < chosen.size(); ++i) {
      EXPECT_EQ(together[i].size(), alone[chosen[i]].size());
      for (size_t label = 0; label < together[i].size(); ++label) {
        const double difference = std::abs(together[i][label] - alone[chosen[i]][label]);
        EXPECT_TRUE(std::isfinite(difference));
        largest = std::max(largest, difference);
      }
    }
  }
  return largest;
}

// Every way to score that this machine has.
struct Way {
  std::string name;
  const Kernels* kernels;  // null: LibTorch's operators
  Precision precision;
  double tolerance;  // of log p; the logits of these random weights are in the tens
};

void PrintTo(const Way& way, std::ostream* out) { *out << way.name; }

std::vector<Way> Ways() {
  std::vector<Way> ways = {{"Torch", nullptr, Precision::kFp32, 1e-4},
                           {"TorchBf16", nullptr, Precision::kBf16, .25}};
  for (const Kernels* kernels : AvailableKernels()) {
    const std::string name = kernels->name;
    ways.push_back({name, kernels, Precision::kFp32, 1e-4});
    if (kernels->bf16) ways.push_back({name + "Bf16", kernels, Precision::kBf16, .15});
    if (kernels->int8) ways.push_back({name + "Int8", kernels, Precision::kInt8, .5});
  }
  return ways;
}

std::unique_ptr<const T5Scorer> ScorerBy(const Way& way, const T5Config& config,
                                         const WeightMap& weights) {
  if (way.kernels == nullptr) {
    return std::make_unique<TorchScorer>(config, weights, way.precision, nullptr);
  }
  return std::make_unique<CpuScorer>(config, weights, way.precision, *way.kernels);
}

class T5ScorerTest : public ::testing::TestWithParam<std::tuple<Way, bool>> {
 protected:
  T5ScorerTest()
      : way_(std::get<0>(GetParam())),
        config_(TinyConfig(std::get<1>(GetParam()))),
        weights_(TinyWeights(config_)),
        scorer_(ScorerBy(way_, config_, weights_)) {}
  const Way way_;
  const T5Config config_;
  const WeightMap weights_;
  const std::unique_ptr<const T5Scorer> scorer_;
};

INSTANTIATE_TEST_SUITE_P(T5, T5ScorerTest,
                         ::testing::Combine(::testing::ValuesIn(Ways()), ::testing::Bool()),
                         [](const auto& info) {
                           return std::get<0>(info.param).name +
                                  (std::get<1>(info.param) ? "GatedUntied" : "ReluTied");
                         });

TEST_P(T5ScorerTest, AgreesWithFullDecodingByT5) {
  const T5 t5(config_, TinyWeights(config_));
  std::mt19937 random(8);
  double largest = 0;
  for (const std::vector<std::string>& labels : LabelSets()) {
    const LabelTrie trie = TrieOf(labels);
    for (const int length : {1, 6, 50}) {
      const std::vector<int32_t> input = RandomTokens(length, random);
      const std::vector<double> expected = ByFullDecoding(t5, input, trie);
      const std::vector<float> scores = scorer_->Score({{&input, &trie}})[0];
      ASSERT_EQ(scores.size(), expected.size());
      double sum = 0;
      for (size_t i = 0; i < scores.size(); ++i) {
        EXPECT_NEAR(scores[i], expected[i], way_.tolerance) << labels[i];
        largest = std::max(largest, std::abs(scores[i] - expected[i]));
        sum += std::exp(scores[i]);
      }
      EXPECT_NEAR(sum, 1, 1e-5);
    }
  }
  std::cout << "largest difference " << largest << std::endl;
}

TEST_P(T5ScorerTest, AnswersATextTheSameAloneAndInAnyBatch) {
  EXPECT_LE(LargestDifferenceInRandomBatches(*scorer_, config_, 30),
            way_.kernels == nullptr ? way_.tolerance : 0);
}

TEST(TorchScorerTest, AnswersTheSameByGraphs) {
  const T5Config config = TinyConfig();
  const WeightMap weights = TinyWeights(config);
  int replays = 0;
  const TorchScorer plain(config, weights, Precision::kFp32, nullptr);
  const TorchScorer by_graphs(config, weights, Precision::kFp32,
                              std::make_unique<FakeGraphMaker>(&replays));
  const LabelTrie one = TrieOf(LabelSets()[0]), other = TrieOf(LabelSets()[2]);
  std::mt19937 random(3);
  for (int round = 0; round < 5; ++round) {
    // Two groups of one shape, which must not take each other's place; one of another.
    std::vector<std::vector<int32_t>> texts;
    std::vector<T5Scorer::Input> inputs;
    for (const int length : {64, 160, 61, 3, 157}) {
      texts.push_back(RandomTokens(length, random, config.vocab_size));
    }
    for (size_t i = 0; i < texts.size(); ++i) inputs.push_back({&texts[i], i == 4 ? &one : &other});
    EXPECT_EQ(by_graphs.Score(inputs), plain.Score(inputs)) << round;
  }
  EXPECT_GE(replays, 3);
}

// Every module alone, then all of them at once.
std::vector<std::vector<std::string>> ModuleSets(const T5Config& config) {
  std::vector<std::vector<std::string>> sets;
  for (const std::string& module : AllModules(config.gated)) sets.push_back({module});
  sets.push_back({"q", "v"});
  sets.push_back(AllModules(config.gated));
  return sets;
}

TEST_P(T5ScorerTest, AnswersWithAnAdapterBesideAsWithItMergedIn) {
  std::mt19937 random(5);
  std::vector<std::vector<int32_t>> texts;
  std::vector<LabelTrie> tries;
  std::vector<T5Scorer::Input> inputs;
  for (const int length : {1, 6, 50}) texts.push_back(RandomTokens(length, random));
  for (const std::vector<std::string>& labels : LabelSets()) tries.push_back(TrieOf(labels));
  for (const std::vector<int32_t>& text : texts) {
    for (const LabelTrie& trie : tries) inputs.push_back({&text, &trie});
  }
  const std::vector<std::vector<float>> without = scorer_->Score(inputs);
  for (const std::vector<std::string>& modules : ModuleSets(config_)) {
    const Adapter adapter = LearntAdapter(config_, LoraOf(modules));
    const std::unique_ptr<const T5Scorer> beside = scorer_->With(adapter);
    const std::vector<std::vector<float>> scores = beside->Score(inputs);
    const std::vector<std::vector<float>> merged =
        ScorerBy(way_, config_, Merge(weights_, adapter))->Score(inputs);
    double largest = 0, change = 0;
    for (size_t i = 0; i < scores.size(); ++i) {
      for (size_t label = 0; label < scores[i].size(); ++label) {
        largest = std::max<double>(largest, std::abs(scores[i][label] - merged[i][label]));
        change = std::max<double>(change, std::abs(scores[i][label] - without[i][label]));
      }
    }
    const std::string of = modules.size() > 2 ? "all" : modules.size() == 2 ? "qv" : modules[0];
    std::cout << of << ": largest difference " << largest << ", the adapter's own " << change
              << std::endl;
    // In bf16 and int8 either is rounded, in ways of its own.
    EXPECT_LE(largest, (way_.precision == Precision::kFp32 ? 1 : 2) * way_.tolerance) << of;
    EXPECT_GT(change, 8 * largest) << of;
    EXPECT_GT(beside->memory_bytes(), 0);
  }
  EXPECT_EQ(scorer_->Score(inputs), without) << "the base is as it was";
}

TEST_P(T5ScorerTest, AnswersWithAnAdapterTheSameAloneInAnyBatchAndOnAnyNumberOfThreads) {
  const Adapter adapter = LearntAdapter(config_, LoraOf(AllModules(config_.gated)));
  const std::unique_ptr<const T5Scorer> beside = scorer_->With(adapter);
  const double tolerance = way_.kernels == nullptr ? way_.tolerance : 0;
  EXPECT_LE(LargestDifferenceInRandomBatches(*beside, config_, 20), tolerance);

  std::mt19937 random(6);
  const std::vector<int32_t> text = RandomTokens(90, random);
  const LabelTrie trie = TrieOf(LabelSets()[2]);
  const int threads = at::get_num_threads();
  std::vector<std::vector<float>> scores;
  for (const int count : {1, 2, 3}) {
    at::set_num_threads(count);
    scores.push_back(beside->Score({{&text, &trie}})[0]);
  }
  at::set_num_threads(threads);
  for (size_t i = 1; i < scores.size(); ++i) {
    for (size_t label = 0; label < scores[i].size(); ++label) {
      EXPECT_NEAR(scores[i][label], scores[0][label], tolerance);
    }
  }
}

// TASUKI_BATCHES of them, for script/verify; 20 else.
TEST(T5ScorerMiniTest, RandomBatchesAnswerEachTextAsItIsAnsweredAlone) {
  T5Config config;
  config.vocab_size = 8128;
  config.d_model = 256;
  config.d_kv = 64;
  config.d_ff = 1024;
  config.num_heads = 4;
  config.num_layers = 4;
  config.num_decoder_layers = 2;
  const char* const asked = std::getenv("TASUKI_BATCHES");
  const int batches = asked != nullptr ? std::atoi(asked) : 20;
  const double difference = LargestDifferenceInRandomBatches(
      *T5Scorer::Make(config, TinyWeights(config)), config, batches);
  std::cout << batches << " batches, largest difference " << difference << std::endl;
  EXPECT_EQ(difference, 0);
}

// ---- Against transformers ----------------------------------------------------------------------

// A text is ids with spaces between them; none is unknown.
class IdTokenizer : public LetterTokenizer {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text) const override {
    std::istringstream stream{std::string(text)};
    return std::vector<int32_t>(std::istream_iterator<int32_t>(stream), {});
  }
  int32_t unk_id() const override { return -1; }
};

// A target as a label, and beside it at each of its positions labels that go on with another token
// from there: a trie as deep as the target, each position of which branches.
struct Labels {
  std::vector<std::vector<int32_t>> branches;  // tokens that may follow at each position
  std::vector<std::vector<int32_t>> targets;   // of each label, with </s>
  LabelTrie trie;
};

Labels LabelsBeside(const std::vector<int32_t>& target, int64_t vocabulary) {
  Labels labels;
  v1::Task task;
  std::string before;
  const auto add = [&](const std::string& text) {
    task.add_labels()->set_name(text);
    labels.targets.push_back(*IdTokenizer().Encode(text));
    labels.targets.back().push_back(kEnd);
  };
  for (const int32_t token : target) {
    std::vector<int32_t>& branches = labels.branches.emplace_back();
    if (target.size() > 1) branches.push_back(token);  // no label is </s> alone
    for (int32_t i = 1; i <= 3; ++i) {
      const int32_t other = 2 + static_cast<int32_t>((token + i * 5) % (vocabulary - 2));
      if (other != token) add(before + std::to_string(branches.emplace_back(other)));
    }
    if (token != kEnd) before += std::to_string(token) + " ";
  }
  if (target.size() > 1) add(before);
  labels.trie = *LabelTrie::Build(task, IdTokenizer());
  return labels;
}

// By logits [positions of the target, vocabulary].
std::vector<double> ByLogits(const Tensor& logits, const std::vector<int32_t>& target,
                             const Labels& labels) {
  const auto logit = logits.accessor<float, 2>();
  std::vector<double> scores;
  for (const std::vector<int32_t>& label : labels.targets) {
    double score = 0;
    for (size_t i = 0; i < label.size(); ++i) {
      double sum = 0;
      for (const int32_t token : labels.branches[i]) sum += std::exp(double{logit[i][token]});
      score += logit[i][label[i]] - std::log(sum);
      if (label[i] != target[i]) break;
    }
    scores.push_back(score);
  }
  return scores;
}

// Of log p for each branch on a label's way, as a share of the spread (standard deviation) of the
// logits: where these lie wide apart, the same rounding of activations moves them further. The
// rounding of a single number is 2^-24, 2^-9 (bf16) and 1/254 of its row's largest (int8); some
// dozens of products, one after the other, make the largest difference measured 3e-6, .027 and .14
// at tiny size (those with an adapter, whose weights are large); .042 by LibTorch's operators,
// which round results and attention, too. Twice that is let pass.
double ParityTolerance(const Way& way) {
  if (way.precision == Precision::kFp32) return 1e-5;
  if (way.precision == Precision::kInt8) return .25;
  return way.kernels == nullptr ? .085 : .05;
}

class T5ScorerParityTest : public ::testing::TestWithParam<std::tuple<Way, std::string>> {};

INSTANTIATE_TEST_SUITE_P(Transformers, T5ScorerParityTest,
                         ::testing::Combine(::testing::ValuesIn(Ways()),
                                            ::testing::ValuesIn(GoldenVariants())),
                         [](const auto& info) {
                           return std::get<0>(info.param).name + "_" +
                                  TestName(std::get<1>(info.param));
                         });

TEST_P(T5ScorerParityTest, LabelsScoreAsTransformersLogitsSay) {
  const auto& [way, variant] = GetParam();
  const std::string directory = GoldenDirectory() + "/" + variant;
  const T5Config config = *T5Config::Read(directory + "/config.json");
  const Golden golden(directory + "/golden.safetensors");
  Adapter adapter{.weights = golden.Map("adapter."), .scale = 0};
  if (!adapter.weights.empty()) adapter.scale = golden.Number("adapter_scale");
  const WeightMap weights = *ReadWeights(directory, config);
  // An adapter merged in, and beside.
  std::vector<std::unique_ptr<const T5Scorer>> scorers;
  scorers.push_back(ScorerBy(way, config, Merge(weights, adapter)));
  if (!adapter.weights.empty()) scorers.push_back(ScorerBy(way, config, weights)->With(adapter));
  const std::vector<std::vector<int32_t>> inputs = golden.Sequences("input");
  const std::vector<std::vector<int32_t>> targets = golden.Sequences("target");
  const Tensor logits = golden.Floats("logits");
  const double spread = logits.std().item<double>();
  double largest = 0;
  int64_t begin = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Labels labels = LabelsBeside(targets[i], config.vocab_size);
    const int64_t length = static_cast<int64_t>(targets[i].size());
    const std::vector<double> expected =
        ByLogits(logits.slice(0, begin, begin + length), targets[i], labels);
    for (const auto& scorer : scorers) {
      const std::vector<float> scores = scorer->Score({{&inputs[i], &labels.trie}})[0];
      ASSERT_EQ(scores.size(), expected.size());
      for (size_t label = 0; label < scores.size(); ++label) {
        // Of each branch on the way: their differences add up.
        const auto branches = static_cast<double>(labels.trie.path(static_cast<int>(label)).size());
        largest = std::max(largest, std::abs(scores[label] - expected[label]) / branches);
      }
    }
    begin += length;
  }
  std::cout << way.name << " " << variant << ": largest difference of a branch " << largest << ", "
            << largest / spread << " of the spread of logits " << spread << std::endl;
  EXPECT_LE(largest / spread, ParityTolerance(way));
}

TEST_P(T5ScorerTest, AnswersNothingForNothing) { EXPECT_TRUE(scorer_->Score({}).empty()); }

TEST_P(T5ScorerTest, CountsTheBytesOfItsWeights) {
  int64_t numbers = 0;
  for (const auto& [name, weight] : weights_) numbers += weight.numel();
  const bool narrow = way_.precision != Precision::kFp32;
  EXPECT_LE(scorer_->memory_bytes(), 4 * numbers);
  EXPECT_GE(scorer_->memory_bytes(), (narrow ? 1 : 3.8) * numbers);
}

}  // namespace
}  // namespace tasuki
