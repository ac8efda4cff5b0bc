#include "model/training/progress.h"

#include "google/protobuf/util/time_util.h"

namespace tasuki {
namespace {

constexpr std::chrono::seconds kInterval(1);

double Seconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

void ProgressReporter::SetWork(int64_t first_step, int64_t total_steps, int64_t steps_per_epoch) {
  first_step_ = first_step;
  steps_per_epoch_ = steps_per_epoch;
  progress_.set_step(first_step);
  progress_.set_total_steps(total_steps);
  progress_.set_epoch(static_cast<double>(first_step) / static_cast<double>(steps_per_epoch));
  begin_ = Clock::now();
}

void ProgressReporter::Enter(v1::Progress::Phase phase) {
  if (phase == progress_.phase()) return;
  const Clock::time_point now = Clock::now();
  if (progress_.phase() == v1::Progress::TRAINING) training_ += now - phase_begin_;
  phase_begin_ = now;
  progress_.set_phase(phase);
  progress_.clear_evaluated_rows();
  progress_.clear_total_rows();
  Report();
}

void ProgressReporter::AddRows(int64_t rows) {
  progress_.set_evaluated_rows(progress_.evaluated_rows() + rows);
  if (Clock::now() - reported_ >= kInterval) Report();
}

void ProgressReporter::Add(const Step& step) {
  loss_sum_ += step.loss * static_cast<double>(step.target_tokens);
  target_tokens_ += step.target_tokens;
  examples_ += step.examples;
  input_tokens_ += step.input_tokens;
  progress_.set_step(progress_.step() + 1);
  progress_.set_epoch(static_cast<double>(progress_.step()) /
                      static_cast<double>(steps_per_epoch_));
  progress_.set_learning_rate(step.learning_rate);
  progress_.set_gradient_norm(step.gradient_norm);
  const Clock::time_point now = Clock::now();
  if (now - reported_ < kInterval) return;
  training_ += now - phase_begin_;
  phase_begin_ = now;
  Report();
}

void ProgressReporter::Report() {
  const Clock::time_point now = Clock::now();
  if (target_tokens_ > 0) {
    progress_.set_loss(loss_sum_ / static_cast<double>(target_tokens_));
    progress_.set_examples_per_second(static_cast<double>(examples_) / Seconds(training_));
    progress_.set_tokens_per_second(static_cast<double>(input_tokens_) / Seconds(training_));
  }
  const int64_t done = progress_.step() - first_step_;
  if (done > 0) {
    const double left = static_cast<double>(progress_.total_steps() - progress_.step());
    const double seconds = Seconds(now - begin_) / static_cast<double>(done) * left;
    *progress_.mutable_remaining() = google::protobuf::util::TimeUtil::MillisecondsToDuration(
        static_cast<int64_t>(seconds * 1000));
  }
  observer_.OnProgress(progress_);
  loss_sum_ = 0;
  target_tokens_ = examples_ = input_tokens_ = 0;
  training_ = {};
  reported_ = now;
}

}  // namespace tasuki
