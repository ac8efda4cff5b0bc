// Tokenised rows in memory, and which of them an optimizer step sees.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

// Token sequences, one after the other in one buffer.
class TokenRows {
 public:
  void Add(absl::Span<const int32_t> row) {
    tokens_.insert(tokens_.end(), row.begin(), row.end());
    ends_.push_back(static_cast<int64_t>(tokens_.size()));
  }
  int64_t size() const { return static_cast<int64_t>(ends_.size()); }
  int64_t token_count() const { return static_cast<int64_t>(tokens_.size()); }
  absl::Span<const int32_t> operator[](int64_t row) const {
    const int64_t begin = row == 0 ? 0 : ends_[row - 1];
    return absl::MakeConstSpan(tokens_).subspan(begin, ends_[row] - begin);
  }

 private:
  std::vector<int32_t> tokens_;
  std::vector<int64_t> ends_;
};

// The order in which examples are learnt: a pure function of the seed, so that the batch of any
// step is known without the steps before it. Thread-compatible; keeps the order of one epoch.
//
// An epoch has as many examples as all tasks have rows. PROPORTIONAL: each row once, shuffled.
// EQUAL: each task gives its share of the examples, going through its rows in shuffled rounds of
// its own. The last batch of an epoch may be smaller.
class DataOrder {
 public:
  struct Example {
    int32_t task = 0;
    int64_t row = 0;
  };

  // REQUIRES: every task has a row; batch_size > 0.
  DataOrder(std::vector<int64_t> rows_of_tasks, v1::Recipe::Mixing mixing, int64_t batch_size,
            int64_t seed);

  int64_t examples_per_epoch() const { return examples_per_epoch_; }
  int64_t steps_per_epoch() const { return (examples_per_epoch_ + batch_size_ - 1) / batch_size_; }
  int64_t EpochOf(int64_t step) const { return step / steps_per_epoch(); }
  // The examples of the step that follows `step` others. Valid until the next call.
  absl::Span<const Example> BatchAt(int64_t step);

 private:
  void Arrange(int64_t epoch);

  const std::vector<int64_t> rows_of_tasks_;
  const v1::Recipe::Mixing mixing_;
  const int64_t batch_size_;
  const int64_t seed_;
  int64_t examples_per_epoch_ = 0;

  int64_t arranged_epoch_ = -1;
  std::vector<Example> order_;  // of arranged_epoch_
};

}  // namespace tasuki
