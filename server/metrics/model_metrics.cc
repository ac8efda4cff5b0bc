#include <atomic>

#include "absl/time/clock.h"
#include "server/metrics/metrics.h"
#include "server/metrics/series.h"

namespace tasuki {

struct ModelMetrics::Series {
  Metrics::Series::Releases releases;
  std::array<prometheus::Histogram*, 5> stages;
  std::array<prometheus::Counter*, 6> results;
  prometheus::Histogram* batch_size;
  prometheus::Histogram* input_tokens;
  prometheus::Counter* tokens;
  prometheus::Counter* padding_tokens;
  prometheus::Counter* truncated;
  prometheus::Gauge* queue;
  std::array<prometheus::Counter*, 3> shadow;  // same, different, skipped
  struct Task {
    std::vector<prometheus::Counter*> labels;
    prometheus::Histogram* confidence;
  };
  std::vector<Task> tasks;
  // Requests that failed and that were answered.
  std::array<std::atomic<int64_t>, 2> requests{};
  std::array<std::atomic<int64_t>, 2> nanoseconds{};
  std::atomic<int64_t> last_end_milliseconds = 0;  // since 1970
  ~Series() {
    for (auto& release : releases) release();
  }
};

std::unique_ptr<ModelMetrics> Metrics::ForModel(const ServedModel& model) {
  constexpr size_t kMaxLabels = 32;
  auto series = std::make_unique<ModelMetrics::Series>();
  auto& releases = series->releases;
  const prometheus::Labels labels = {{"model", model.name}};
  const auto with = [&](prometheus::Labels more) {
    more.insert(labels.begin(), labels.end());
    return more;
  };
  const std::array kStages = {"tokenize", "queue", "encode", "decode", "postprocess"};
  for (size_t i = 0; i < kStages.size(); ++i) {
    series->stages[i] = &series_->Hold(series_->stage_seconds, with({{"stage", kStages[i]}}),
                                       releases, kStageBuckets);
  }
  const std::array kResults = {"ok", "late", "rejected", "expired", "cancelled", "error"};
  for (size_t i = 0; i < kResults.size(); ++i) {
    series->results[i] = &series_->Hold(series_->texts, with({{"result", kResults[i]}}), releases);
  }
  const std::array kShadow = {"same", "different", "skipped"};
  for (size_t i = 0; i < kShadow.size(); ++i) {
    series->shadow[i] =
        &series_->Hold(series_->shadow_predictions, with({{"result", kShadow[i]}}), releases);
  }
  series->batch_size = &series_->Hold(series_->batch_size, labels, releases, kInputBuckets);
  series->input_tokens = &series_->Hold(series_->input_tokens, labels, releases, kTokenBuckets);
  series->tokens = &series_->Hold(series_->tokens, labels, releases);
  series->padding_tokens = &series_->Hold(series_->padding_tokens, labels, releases);
  series->truncated = &series_->Hold(series_->truncated_texts, labels, releases);
  series->queue = &series_->Hold(series_->queue_length, labels, releases);
  series_->Hold(series_->queue_limit, labels, releases)
      .Set(static_cast<double>(model.queue_limit_tokens));
  series_->Hold(series_->model_memory, labels, releases)
      .Set(static_cast<double>(model.memory_bytes));
  series_
      ->Hold(series_->model_info, with({{"precision", model.precision}, {"device", model.device}}),
             releases)
      .Set(1);
  for (const ServedModel::Task& task : model.tasks) {
    auto& children = series->tasks.emplace_back();
    children.confidence = &series_->Hold(series_->confidence, with({{"task", task.name}}), releases,
                                         kConfidenceBuckets);
    for (size_t i = 0; i < task.labels.size(); ++i) {
      const bool own = task.labels.size() <= kMaxLabels || i + 1 < kMaxLabels;
      children.labels.push_back(&series_->Hold(
          series_->predictions,
          with({{"task", task.name}, {"label", own ? task.labels[i] : "other"}}), releases));
    }
  }
  return std::unique_ptr<ModelMetrics>(new ModelMetrics(std::move(series)));
}

ModelMetrics::ModelMetrics(std::unique_ptr<Series> series) : series_(std::move(series)) {}
ModelMetrics::~ModelMetrics() = default;

void ModelMetrics::ObserveStage(Stage stage, absl::Duration duration) {
  series_->stages[static_cast<size_t>(stage)]->Observe(absl::ToDoubleSeconds(duration));
}

void ModelMetrics::CountRequest(Result result, int64_t texts, absl::Duration duration) {
  series_->results[static_cast<size_t>(result)]->Increment(static_cast<double>(texts));
  const size_t ok = result == Result::kOk ? 1 : 0;
  ++series_->requests[ok];
  series_->nanoseconds[ok] += absl::ToInt64Nanoseconds(duration);
  series_->last_end_milliseconds = absl::ToUnixMillis(absl::Now());
}

void ModelMetrics::ObserveInput(int64_t tokens, bool truncated) {
  series_->input_tokens->Observe(static_cast<double>(tokens));
  if (truncated) series_->truncated->Increment();
}

void ModelMetrics::ObserveBatch(int64_t inputs, int64_t tokens, int64_t padding_tokens) {
  series_->batch_size->Observe(static_cast<double>(inputs));
  series_->tokens->Increment(static_cast<double>(tokens));
  series_->padding_tokens->Increment(static_cast<double>(padding_tokens));
}

void ModelMetrics::SetQueue(int64_t tokens) { series_->queue->Set(static_cast<double>(tokens)); }

void ModelMetrics::CountShadow(int64_t same, int64_t different, int64_t skipped) {
  series_->shadow[0]->Increment(static_cast<double>(same));
  series_->shadow[1]->Increment(static_cast<double>(different));
  series_->shadow[2]->Increment(static_cast<double>(skipped));
}

void ModelMetrics::CountPrediction(int task, int label, double probability) {
  const Series::Task& children = series_->tasks[task];
  children.labels[label]->Increment();
  children.confidence->Observe(probability);
}

ModelMetrics::Totals ModelMetrics::Read() const {
  const auto requests = [this](size_t ok) {
    return Totals::Timed{series_->requests[ok].load(),
                         absl::Nanoseconds(series_->nanoseconds[ok].load())};
  };
  const auto stage = [this](Stage stage) {
    const auto histogram = series_->stages[static_cast<size_t>(stage)]->Collect().histogram;
    return Totals::Timed{static_cast<int64_t>(histogram.sample_count),
                         absl::Seconds(histogram.sample_sum)};
  };
  const size_t ok = static_cast<size_t>(Result::kOk);
  Totals::Timed forward = stage(Stage::kEncode);
  forward.time += stage(Stage::kDecode).time;
  return {requests(1),
          requests(0),
          stage(Stage::kTokenize),
          stage(Stage::kQueue),
          forward,
          static_cast<int64_t>(series_->results[ok]->Value()),
          absl::FromUnixMillis(series_->last_end_milliseconds.load())};
}

}  // namespace tasuki
