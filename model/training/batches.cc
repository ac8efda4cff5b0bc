#include "model/training/batches.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "model/training/random.h"

namespace tasuki {
namespace {

// Round `round` of a task's rows.
std::vector<int64_t> ShuffledRows(int64_t rows, int64_t seed, int64_t task, int64_t round) {
  std::vector<int64_t> order(rows);
  std::iota(order.begin(), order.end(), int64_t{0});
  Random({seed, task, round}).Shuffle(order);
  return order;
}

}  // namespace

DataOrder::DataOrder(std::vector<const TokenRows*> tasks, const v1::Recipe& recipe)
    : tasks_(std::move(tasks)),
      mixing_(recipe.mixing()),
      seed_(recipe.seed()),
      by_tokens_(recipe.batch_tokens() > 0),
      batch_((by_tokens_ ? recipe.batch_tokens() : recipe.batch_size()) *
             std::max<int64_t>(1, recipe.gradient_accumulation_steps())) {
  for (const TokenRows* rows : tasks_) examples_per_epoch_ += rows->size();
  if (!by_tokens_) {
    steps_per_epoch_ = (examples_per_epoch_ + batch_ - 1) / batch_;
    return;
  }
  double tokens = 0;
  for (size_t task = 0; task < tasks_.size(); ++task) {
    const double rows = static_cast<double>(tasks_[task]->size());
    tokens +=
        static_cast<double>(ShareOf(task)) * static_cast<double>(tasks_[task]->tokens()) / rows;
  }
  const double steps = std::ceil(tokens / static_cast<double>(batch_));
  steps_per_epoch_ = std::clamp(static_cast<int64_t>(steps), int64_t{1}, examples_per_epoch_);
}

absl::Span<const DataOrder::Example> DataOrder::BatchAt(int64_t step) {
  if (arranged_epoch_ != EpochOf(step)) Arrange(EpochOf(step));
  const int64_t index = step % steps_per_epoch_;
  const int64_t begin = index == 0 ? 0 : ends_[index - 1];
  return absl::MakeConstSpan(order_).subspan(begin, ends_[index] - begin);
}

int64_t DataOrder::LongestStep() {
  int64_t longest = 0, most = -1;
  for (int64_t step = 0; step < steps_per_epoch_; ++step) {
    int64_t tokens = 0;
    for (const Example& example : BatchAt(step)) tokens += TokensOf(example);
    if (tokens > most) {
      most = tokens;
      longest = step;
    }
  }
  return longest;
}

// Examples that a task gives to an epoch.
int64_t DataOrder::ShareOf(int64_t task) const {
  if (mixing_ != v1::Recipe::EQUAL) return tasks_[task]->size();
  const int64_t tasks = static_cast<int64_t>(tasks_.size());
  return examples_per_epoch_ / tasks + (task < examples_per_epoch_ % tasks);
}

int64_t DataOrder::TokensOf(const Example& example) const {
  return static_cast<int64_t>((*tasks_[example.task])[example.row].size());
}

void DataOrder::Arrange(int64_t epoch) {
  order_.clear();
  order_.reserve(examples_per_epoch_);
  for (int64_t task = 0; task < static_cast<int64_t>(tasks_.size()); ++task) {
    const int64_t rows = tasks_[task]->size(), share = ShareOf(task);
    if (mixing_ != v1::Recipe::EQUAL) {
      for (int64_t row = 0; row < rows; ++row) order_.push_back({static_cast<int32_t>(task), row});
      continue;
    }
    int64_t round = -1;
    std::vector<int64_t> shuffled;
    for (int64_t drawn = epoch * share; drawn < (epoch + 1) * share; ++drawn) {
      if (drawn / rows != round) shuffled = ShuffledRows(rows, seed_, task, round = drawn / rows);
      order_.push_back({static_cast<int32_t>(task), shuffled[drawn % rows]});
    }
  }
  Random({seed_, epoch}).Shuffle(order_);
  arranged_epoch_ = epoch;

  ends_.clear();
  ends_.reserve(steps_per_epoch_);
  if (by_tokens_) return CutByTokens();
  for (int64_t step = 1; step <= steps_per_epoch_; ++step) {
    ends_.push_back(std::min(step * batch_, examples_per_epoch_));
  }
}

// A step ends where its share of the epoch's tokens is reached, and leaves an example to each that
// follows.
void DataOrder::CutByTokens() {
  int64_t total = 0;
  for (const Example& example : order_) total += TokensOf(example);
  int64_t end = 0, tokens = 0;
  for (int64_t step = 1; step <= steps_per_epoch_; ++step) {
    const int64_t last = examples_per_epoch_ - (steps_per_epoch_ - step);
    do {
      tokens += TokensOf(order_[end++]);
    } while (end < last && (step == steps_per_epoch_ || tokens < total * step / steps_per_epoch_));
    ends_.push_back(end);
  }
}

}  // namespace tasuki
