// Pre-training of a tokenizer and a new T5 on texts, by span corruption.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/text/examples.h"
#include "model/text/tokenizer.h"
#include "model/training/batches.h"
#include "model/training/random.h"
#include "model/training/span_corruption.h"
#include "model/training/work.h"

namespace tasuki {
namespace {

constexpr int64_t kVocabularyMultiple = 128;  // rows of the embedding, as T5's 32,128
constexpr int64_t kHeldOutOneIn = 50;
constexpr int64_t kMostHeldOut = 512;
constexpr int64_t kHeldOutEpoch = -1;  // a key for random numbers that no epoch has

struct Segments {
  TokenRows train;
  TokenRows held_out;
};

class PretrainingWork : public Work {
 public:
  PretrainingWork(v1::Pretraining job, std::string tokenizer_directory,
                  std::unique_ptr<Tokenizer> tokenizer, Segments segments)
      : job_(std::move(job)),
        tokenizer_directory_(std::move(tokenizer_directory)),
        tokenizer_(std::move(tokenizer)),
        segments_(std::move(segments)),
        config_(ConfigOf(job_, *tokenizer_)),
        corruption_{.noise_density = job_.noise_density(),
                    .mean_span_tokens = job_.mean_span_tokens()},
        order_({&segments_.train}, recipe()) {}

  const v1::Recipe& recipe() const override { return job_.recipe(); }
  const T5Config& config() const override { return config_; }
  const std::string& tokenizer_directory() const override { return tokenizer_directory_; }
  int64_t steps_per_epoch() const override { return order_.steps_per_epoch(); }
  absl::StatusOr<WeightMap> FirstWeights() const override {
    return InitialWeights(config_, recipe().seed());
  }

  Batch BatchAt(int64_t step) override {
    Batch batch;
    for (const DataOrder::Example& example : order_.BatchAt(step)) {
      Add(segments_.train, example.row, order_.EpochOf(step), batch);
    }
    return batch;
  }

  int64_t LongestStep() override { return order_.LongestStep(); }

  std::string DescribeBatch(int64_t) override { return "segments of the texts"; }

  absl::StatusOr<std::vector<v1::Evaluation>> Evaluate(const T5& model, const StopSignal& stop,
                                                       ProgressReporter& progress) const override {
    std::vector<v1::Evaluation> evaluations;
    const int64_t count = segments_.held_out.size();
    if (count == 0) return evaluations;
    progress.ExpectRows(count);
    at::NoGradGuard no_grad;
    double loss_sum = 0;
    int64_t target_tokens = 0;
    for (int64_t row = 0; row < count;) {
      if (stop.requested()) return absl::CancelledError("stopped");
      Batch batch;
      int64_t tokens = 0;
      for (; row < count && tokens < kTokensAtOnce; ++row) {
        Add(segments_.held_out, row, kHeldOutEpoch, batch);
        tokens += static_cast<int64_t>(batch.inputs.back().size());
      }
      const at::Tensor logits = TargetLogits(model, batch.inputs, batch.targets, /*dropout=*/{});
      loss_sum += TokenLosses(logits, batch.targets).sum().item<double>();
      target_tokens += batch.target_tokens();
      progress.AddRows(batch.size());
    }
    v1::Evaluation& evaluation = evaluations.emplace_back();
    evaluation.set_method(v1::Evaluation::TEACHER_FORCED);
    evaluation.set_split(v1::Evaluation::VALID);
    evaluation.set_row_count(count);
    evaluation.set_loss(loss_sum / static_cast<double>(target_tokens));
    return evaluations;
  }

  absl::StatusOr<FinalJudgement> EvaluateFinally(const T5& model, const StopSignal& stop,
                                                 TrainingObserver&,
                                                 ProgressReporter& progress) const override {
    absl::StatusOr<std::vector<v1::Evaluation>> evaluations = Evaluate(model, stop, progress);
    if (!evaluations.ok()) return evaluations.status();
    return FinalJudgement{*std::move(evaluations), {}};
  }

  int64_t evaluation_tokens() const override { return segments_.held_out.tokens(); }
  int64_t final_evaluation_tokens() const override { return evaluation_tokens(); }

  std::optional<double> Figure(const std::vector<v1::Evaluation>& evaluations) const override {
    if (evaluations.empty() || recipe().selection() == v1::Recipe::LAST) return std::nullopt;
    return -evaluations.front().loss();
  }

  internal::ModelManifest Manifest() const override {
    internal::ModelManifest manifest;
    manifest.set_max_input_tokens(recipe().max_input_tokens());
    return manifest;
  }

 private:
  static T5Config ConfigOf(const v1::Pretraining& job, const Tokenizer& tokenizer) {
    const int64_t rows = (tokenizer.size() + kVocabularyMultiple - 1) / kVocabularyMultiple;
    return T5Config::OfSize(job.size(), rows * kVocabularyMultiple);
  }

  void Add(const TokenRows& segments, int64_t row, int64_t epoch, Batch& batch) const {
    Random random({recipe().seed(), row, epoch});
    CorruptedText text = CorruptSpans(segments[row], corruption_, *tokenizer_, random);
    batch.inputs.push_back(std::move(text.input));
    batch.targets.push_back(std::move(text.target));
    batch.weights.push_back(1);
  }

  const v1::Pretraining job_;
  const std::string tokenizer_directory_;
  const std::unique_ptr<Tokenizer> tokenizer_;
  const Segments segments_;
  const T5Config config_;
  const SpanCorruption corruption_;
  DataOrder order_;
};

absl::StatusOr<std::vector<std::string>> ReadTexts(const v1::Pretraining& job,
                                                   const TrainingPlaces& places,
                                                   const StopSignal& stop) {
  std::vector<std::string> texts;
  for (const std::string& dataset : job.datasets()) {
    const auto place = places.datasets.find(dataset);
    if (place == places.datasets.end()) {
      return MakeError(absl::StatusCode::kDataLoss, v1::FILE_CHANGED,
                       absl::StrCat(dataset, " is not there any more"));
    }
    absl::Status status = ReadExamples(place->second, [&](int64_t, v1::Example example) {
      if (stop.requested()) return absl::CancelledError("stopped");
      texts.push_back(std::move(*example.mutable_text()));
      return absl::OkStatus();
    });
    if (!status.ok()) return status;
  }
  return texts;
}

// The tokenizer of the job: trained by its first attempt, found by the others.
absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerOf(const v1::Pretraining& job,
                                                       const std::vector<std::string>& texts,
                                                       int threads, const std::string& directory) {
  const std::string path = directory + "/spiece.model";
  absl::StatusOr<std::unique_ptr<Tokenizer>> kept = Tokenizer::Load(path);
  if (kept.ok() || !absl::IsNotFound(kept.status())) return kept;

  TokenizerTraining training;
  training.vocabulary_size = job.vocabulary_size();
  training.required_texts = {job.required_texts().begin(), job.required_texts().end()};
  training.threads = threads;
  const std::string aside = directory + ".aside";
  absl::Status status = RemoveAll(aside);
  if (status.ok()) status = MakeDirectories(aside);
  if (status.ok()) status = TrainTokenizer(texts, training, aside + "/spiece.model");
  if (status.ok()) status = PublishDirectory(aside, directory);
  if (!status.ok()) return status;
  return Tokenizer::Load(path);
}

// Cuts the texts into segments of at most max_input_tokens tokens, within texts, and holds some
// back.
absl::StatusOr<Segments> CutSegments(const v1::Pretraining& job, const TrainingPlaces& places,
                                     const std::vector<std::string>& texts,
                                     const Tokenizer& tokenizer, const StopSignal& stop) {
  TokenRows all(places.checkpoints_directory);
  const size_t most = static_cast<size_t>(job.recipe().max_input_tokens());
  for (const std::string& text : texts) {
    if (stop.requested()) return absl::CancelledError("stopped");
    absl::StatusOr<std::vector<int32_t>> tokens = tokenizer.Encode(text);
    if (!tokens.ok()) return tokens.status();
    for (size_t begin = 0; begin + 2 <= tokens->size(); begin += most) {
      all.Add(absl::MakeConstSpan(*tokens).subspan(begin, most));
    }
  }
  if (!all.status().ok()) return all.status();
  if (all.size() == 0) {
    return MakeError(absl::StatusCode::kInvalidArgument, v1::DATASET_EMPTY,
                     "the datasets hold no text of two tokens or more");
  }
  const int64_t held_out = std::min(all.size() / kHeldOutOneIn, kMostHeldOut);
  std::vector<int64_t> order(all.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  Random({job.recipe().seed(), kHeldOutEpoch}).Shuffle(order);
  std::sort(order.begin(), order.begin() + held_out);
  std::sort(order.begin() + held_out, order.end());
  Segments segments{TokenRows(places.checkpoints_directory), TokenRows()};
  for (int64_t i = 0; i < all.size(); ++i) {
    (i < held_out ? segments.held_out : segments.train).Add(all[order[i]]);
  }
  if (!segments.train.status().ok()) return segments.train.status();
  return segments;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Work>> PreparePretraining(const v1::Pretraining& job,
                                                         const TrainingPlaces& places, int threads,
                                                         const StopSignal& stop,
                                                         TrainingObserver& observer) {
  absl::StatusOr<std::vector<std::string>> texts = ReadTexts(job, places, stop);
  if (!texts.ok()) return texts.status();
  const std::string directory = places.checkpoints_directory + "/tokenizer";
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      TokenizerOf(job, *texts, threads, directory);
  if (!tokenizer.ok()) return tokenizer.status();
  absl::StatusOr<Segments> segments = CutSegments(job, places, *texts, **tokenizer, stop);
  if (!segments.ok()) return segments.status();
  observer.OnMessage(
      v1::TrainingJobEvent::Message::INFO,
      absl::StrCat((*tokenizer)->size() - kSentinelCount, " pieces in the tokenizer; ",
                   segments->train.size(), " segments to learn from, ", segments->held_out.size(),
                   " held out."));
  return std::make_unique<PretrainingWork>(job, directory, *std::move(tokenizer),
                                           *std::move(segments));
}

}  // namespace tasuki
