#include "model/t5/graphs.h"

#include <ATen/ops/empty.h>

#include <bit>
#include <cstring>
#include <exception>
#include <utility>

namespace tasuki {
namespace {

constexpr int kPlainRuns = 2;
// Of a few megabytes each, on host and device; a job has some dozen shapes.
constexpr int64_t kMostGraphs = 128;

// In page-locked memory if it goes to a GPU, so that the copy waits for nothing and nobody for it.
// LibTorch keeps the memory until the copy is done.
at::Tensor OnHost(const std::vector<int64_t>& numbers, at::Device device) {
  at::Tensor host = at::empty({static_cast<int64_t>(numbers.size())},
                              at::TensorOptions(at::kLong).pinned_memory(device.is_cuda()));
  std::memcpy(host.mutable_data_ptr(), numbers.data(), numbers.size() * sizeof(int64_t));
  return host;
}

}  // namespace

GraphCache::GraphCache(at::Device device, std::unique_ptr<GraphMaker> maker)
    : device_(device), maker_(std::move(maker)) {}

at::Tensor GraphCache::Run(const std::vector<int64_t>& shape, const std::vector<int64_t>& numbers,
                           const Pass& pass) {
  const at::Tensor host = OnHost(numbers, device_);
  if (maker_ == nullptr) return pass(host.to(device_, /*non_blocking=*/true));
  Entry& entry = entries_[shape];
  if (entry.graph == nullptr) {
    const at::Tensor input = host.to(device_, /*non_blocking=*/true);
    ++entry.runs;
    if (entry.runs <= kPlainRuns || entry.refused || captured_ == kMostGraphs) return pass(input);
    entry.pass = pass;
    Capture(entry, input);
    if (entry.refused) return pass(input);
  } else {
    entry.numbers.copy_(host, /*non_blocking=*/true);
  }
  entry.graph->Replay();
  return entry.result;
}

void GraphCache::Clear() {
  entries_.clear();
  captured_ = 0;
}

void GraphCache::Capture(Entry& entry, const at::Tensor& numbers) {
  entry.numbers = numbers;
  entry.graph = maker_->Make();
  try {
    entry.graph->Capture([&entry] { entry.result = entry.pass(entry.numbers); });
    ++captured_;
  } catch (const std::exception&) {
    // Memory that does not suffice, for one: without a graph it may.
    entry = {.refused = true};
  }
}

void NumberWriter::Add(const std::vector<int64_t>& numbers) {
  numbers_.insert(numbers_.end(), numbers.begin(), numbers.end());
}

void NumberWriter::Add(const std::vector<double>& numbers) {
  for (const double number : numbers) numbers_.push_back(std::bit_cast<int64_t>(number));
}

at::Tensor NumberReader::Next(int64_t count) {
  return numbers_.narrow(0, std::exchange(begin_, begin_ + count), count);
}

at::Tensor NumberReader::NextDoubles(int64_t count) { return Next(count).view(at::kDouble); }

}  // namespace tasuki
