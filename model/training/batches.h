// Which tokenised rows an optimizer step sees.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "model/training/token_rows.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

// The order in which examples are learnt: a pure function of rows and recipe, so that the batch of
// any step is known without the steps before it. Thread-compatible; keeps the order of one epoch.
//
// An epoch has as many examples as all tasks have rows. PROPORTIONAL: each row once, shuffled.
// EQUAL: each task gives its share of the examples, going through its rows in shuffled rounds of
// its own. A step has batch_size · gradient_accumulation_steps examples, the last one of an epoch
// perhaps fewer. With batch_tokens the steps of an epoch share its tokens evenly, and there are as
// many as keep their mean (EQUAL: the mean over the epochs) at that many tokens or below; each has
// an example.
class DataOrder {
 public:
  struct Example {
    int32_t task = 0;
    int64_t row = 0;
  };

  // REQUIRES: every task has a row; a resolved recipe. `tasks` must outlive it.
  DataOrder(std::vector<const TokenRows*> tasks, const v1::Recipe& recipe);

  int64_t steps_per_epoch() const { return steps_per_epoch_; }
  int64_t EpochOf(int64_t step) const { return step / steps_per_epoch_; }
  // The examples of the step that follows `step` others. Valid until the next call.
  absl::Span<const Example> BatchAt(int64_t step);
  // The step of the first epoch with the most input tokens, the first of them.
  int64_t LongestStep();

 private:
  int64_t ShareOf(int64_t task) const;
  int64_t TokensOf(const Example& example) const;
  void Arrange(int64_t epoch);
  void CutByTokens();

  const std::vector<const TokenRows*> tasks_;
  const v1::Recipe::Mixing mixing_;
  const int64_t seed_;
  const bool by_tokens_;
  const int64_t batch_;  // examples, or tokens, of a step
  int64_t examples_per_epoch_ = 0;
  int64_t steps_per_epoch_ = 0;

  int64_t arranged_epoch_ = -1;
  std::vector<Example> order_;  // of arranged_epoch_
  std::vector<int64_t> ends_;   // in order_, of its steps
};

}  // namespace tasuki
