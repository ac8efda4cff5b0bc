// T5Scorer by LibTorch's operators: for GPUs, and what CpuScorer is compared with. Private to
// model/: includes torch.
//
// Texts of like length are padded to a rectangle, whose sides are rounded up to few sizes; one of a
// size that came before is a CUDA graph. In bf16 the products with weights and those of attention
// have operands and results rounded to it; residual stream, norms and the head stay fp32. One call
// computes at a time: graphs share their memory.
#pragma once

#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "model/t5/graphs.h"
#include "model/t5/scorer.h"

namespace tasuki {

class TorchScorer : public T5Scorer {
 public:
  // Weights are not copied where their layout serves as it is. REQUIRES: fp32 or bf16. `graphs` may
  // be null.
  TorchScorer(const T5Config& config, const WeightMap& weights, Precision precision,
              std::unique_ptr<GraphMaker> graphs);
  ~TorchScorer() override;

  std::unique_ptr<const T5Scorer> With(const Adapter& adapter) const override;
  using T5Scorer::Score;
  std::vector<std::vector<float>> Score(absl::Span<const Input> inputs, Pass& pass) const override;
  int64_t memory_bytes() const override;

 private:
  struct Prepared;
  TorchScorer(std::unique_ptr<const Prepared> prepared, at::Device device);

  at::Tensor LogitsOf(absl::Span<const Input> inputs, const std::vector<int64_t>& group,
                      const at::Tensor& head) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::unique_ptr<const Prepared> prepared_;
  mutable absl::Mutex mutex_;  // held while it computes
  mutable GraphCache graphs_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tasuki
