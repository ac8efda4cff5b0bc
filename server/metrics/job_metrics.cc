#include <algorithm>
#include <optional>

#include "absl/time/clock.h"
#include "server/metrics/metrics.h"
#include "server/metrics/series.h"

namespace tasuki {

struct JobMetrics::Series {
  Metrics::Series& all;
  const std::string job;
  Metrics::Series::Releases releases;
  // All from the start, so that none is missing when it begins; a trainer begins by preparing.
  std::map<std::string, prometheus::Gauge*> phases = [this] {
    std::map<std::string, prometheus::Gauge*> made;
    for (const char* phase : {"PREPARING", "TRAINING", "EVALUATING", "SAVING", "PUBLISHING"}) {
      made[phase] = &Hold(all.phase, {{"phase", phase}});
    }
    made["PREPARING"]->Set(1);
    return made;
  }();
  prometheus::Gauge& progress = Hold(all.progress);
  prometheus::Gauge& last_step_time = Hold(all.last_step_time);
  // Made when there is something to show: a loss of 0 would be a lie.
  struct Training {
    prometheus::Gauge& loss;
    prometheus::Gauge& learning_rate;
    prometheus::Gauge& gradient_norm;
  };
  absl::Mutex mutex;
  std::optional<Training> training ABSL_GUARDED_BY(mutex);
  prometheus::Gauge* last_checkpoint_time ABSL_GUARDED_BY(mutex) = nullptr;
  std::map<std::pair<std::string, std::string>, prometheus::Gauge*> scores ABSL_GUARDED_BY(mutex);
  int64_t last_step ABSL_GUARDED_BY(mutex);

  Series(Metrics::Series& all, const std::string& job, int64_t steps_done)
      : all(all), job(job), last_step(steps_done) {
    last_step_time.SetToCurrentTime();  // so that a job that never steps counts as stalled in time
  }
  prometheus::Gauge& Hold(GaugeFamily& family, prometheus::Labels labels = {}) {
    labels["job"] = job;
    return all.Hold(family, labels, releases);
  }
  ~Series() {
    for (auto& release : releases) release();
  }
  void SetProgress(int64_t step, int64_t total_steps) {
    if (total_steps > 0) progress.Set(static_cast<double>(step) / static_cast<double>(total_steps));
  }
};

std::unique_ptr<JobMetrics> Metrics::ForJob(const std::string& job, int64_t steps_done,
                                            int64_t total_steps) {
  auto series = std::make_unique<JobMetrics::Series>(*series_, job, steps_done);
  series->SetProgress(steps_done, total_steps);
  return std::unique_ptr<JobMetrics>(new JobMetrics(std::move(series)));
}

JobMetrics::JobMetrics(std::unique_ptr<Series> series) : series_(std::move(series)) {}
JobMetrics::~JobMetrics() = default;

void JobMetrics::Observe(const Report& report) {
  for (const auto& [phase, gauge] : series_->phases) gauge->Set(phase == report.phase ? 1 : 0);
  if (report.step <= 0) return;  // still preparing: nothing to show, and no mark to count from
  absl::MutexLock lock(&series_->mutex);
  if (report.examples_per_second > 0) {  // or else no step of this attempt yet, and no loss
    if (!series_->training.has_value()) {
      series_->training.emplace(Series::Training{series_->Hold(series_->all.loss),
                                                 series_->Hold(series_->all.learning_rate),
                                                 series_->Hold(series_->all.gradient_norm)});
    }
    series_->training->loss.Set(report.loss);
    series_->training->learning_rate.Set(report.learning_rate);
    series_->training->gradient_norm.Set(report.gradient_norm);
  }
  series_->SetProgress(report.step, report.total_steps);
  const int64_t steps = report.step - series_->last_step;
  series_->last_step = report.step;
  if (steps <= 0) return;  // the same step in another phase, or a checkpoint behind the last report
  series_->last_step_time.SetToCurrentTime();
  if (report.examples_per_second > 0 && report.batch_size > 0) {
    const double seconds = static_cast<double>(report.batch_size) / report.examples_per_second;
    for (int64_t i = 0; i < steps; ++i) series_->all.step_seconds.Observe(seconds);
  }
  const double examples = static_cast<double>(steps * report.batch_size);
  series_->all.train_steps.Increment(static_cast<double>(steps));
  series_->all.train_examples.Increment(examples);
  // Both rates are of the same interval, so that their ratio is the tokens of an example.
  if (report.examples_per_second > 0 && report.tokens_per_second > 0) {
    series_->all.train_tokens.Increment(examples * report.tokens_per_second /
                                        report.examples_per_second);
  }
}

void JobMetrics::SetScore(absl::string_view task, absl::string_view figure, double value) {
  absl::MutexLock lock(&series_->mutex);
  prometheus::Gauge*& gauge = series_->scores[{std::string(task), std::string(figure)}];
  if (gauge == nullptr) {
    gauge = &series_->Hold(series_->all.score,
                           {{"task", std::string(task)}, {"metric", std::string(figure)}});
  }
  gauge->Set(value);
}

void JobMetrics::CountCheckpoint(absl::Duration duration) {
  series_->all.checkpoints[1]->Increment();
  series_->all.checkpoint_seconds.Observe(absl::ToDoubleSeconds(duration));
  absl::MutexLock lock(&series_->mutex);
  if (series_->last_checkpoint_time == nullptr) {
    series_->last_checkpoint_time = &series_->Hold(series_->all.last_checkpoint_time);
  }
  series_->last_checkpoint_time->SetToCurrentTime();
}

}  // namespace tasuki
