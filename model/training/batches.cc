#include "model/training/batches.h"

#include <algorithm>
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

DataOrder::DataOrder(std::vector<int64_t> rows_of_tasks, v1::Recipe::Mixing mixing,
                     int64_t batch_size, int64_t seed)
    : rows_of_tasks_(std::move(rows_of_tasks)),
      mixing_(mixing),
      batch_size_(batch_size),
      seed_(seed),
      examples_per_epoch_(
          std::accumulate(rows_of_tasks_.begin(), rows_of_tasks_.end(), int64_t{0})) {}

absl::Span<const DataOrder::Example> DataOrder::BatchAt(int64_t step) {
  if (arranged_epoch_ != EpochOf(step)) Arrange(EpochOf(step));
  const int64_t begin = step % steps_per_epoch() * batch_size_;
  return absl::MakeConstSpan(order_).subspan(begin, batch_size_);  // cut at the epoch's end
}

void DataOrder::Arrange(int64_t epoch) {
  order_.clear();
  const int64_t tasks = static_cast<int64_t>(rows_of_tasks_.size());
  for (int64_t task = 0; task < tasks; ++task) {
    const int64_t rows = rows_of_tasks_[task];
    if (mixing_ != v1::Recipe::EQUAL) {
      for (int64_t row = 0; row < rows; ++row) order_.push_back({static_cast<int32_t>(task), row});
      continue;
    }
    const int64_t share = examples_per_epoch_ / tasks + (task < examples_per_epoch_ % tasks);
    int64_t round = -1;
    std::vector<int64_t> shuffled;
    for (int64_t drawn = epoch * share; drawn < (epoch + 1) * share; ++drawn) {
      if (drawn / rows != round) shuffled = ShuffledRows(rows, seed_, task, round = drawn / rows);
      order_.push_back({static_cast<int32_t>(task), shuffled[drawn % rows]});
    }
  }
  Random({seed_, epoch}).Shuffle(order_);
  arranged_epoch_ = epoch;
}

}  // namespace tasuki
