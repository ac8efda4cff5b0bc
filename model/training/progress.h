// Tells the observer where a training stands: phases at once, steps and what is evaluated at most
// once a second.
#pragma once

#include <chrono>
#include <cstdint>

#include "model/training/training.h"

namespace tasuki {

// Thread-compatible.
class ProgressReporter {
 public:
  explicit ProgressReporter(TrainingObserver& observer) : observer_(observer) {}

  // The size of the work, once it is known. `first_step` steps were done by earlier attempts.
  void SetWork(int64_t first_step, int64_t total_steps, int64_t steps_per_epoch);
  void Enter(v1::Progress::Phase phase);

  struct Step {
    double loss = 0;  // per target token
    double learning_rate = 0;
    double gradient_norm = 0;  // before clipping
    int64_t examples = 0;
    int64_t input_tokens = 0;
    int64_t target_tokens = 0;
  };
  // After every optimizer step.
  void Add(const Step& step);

  // Within EVALUATING: rows there are to judge, each as often as there are ways that it is judged,
  // and how many of them a pass has done.
  void ExpectRows(int64_t rows) { progress_.set_total_rows(rows); }
  void AddRows(int64_t rows);

 private:
  using Clock = std::chrono::steady_clock;
  void Report();

  TrainingObserver& observer_;
  v1::Progress progress_;  // what was told last
  int64_t first_step_ = 0;
  int64_t steps_per_epoch_ = 1;
  Clock::time_point begin_;  // of this attempt's steps
  Clock::time_point phase_begin_ = Clock::now();
  Clock::time_point reported_ = Clock::now();

  // Since the last report.
  double loss_sum_ = 0;  // over target tokens
  int64_t target_tokens_ = 0;
  int64_t examples_ = 0;
  int64_t input_tokens_ = 0;
  Clock::duration training_{};
};

}  // namespace tasuki
