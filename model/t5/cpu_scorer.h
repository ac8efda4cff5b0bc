// T5Scorer on a CPU: the same network on this project's own kernels, in fp32, bf16 or int8. Private
// to model/: includes torch.
//
// Nothing is padded. The residual stream, attention, norms and the head are fp32 in every
// precision; `precision` is that of the products with weights. The keys and values of
// cross-attention are never computed: a query is taken through the transposed key weights instead
// (q·(W h) = (Wᵀq)·h), and the weighted mean of the encoder's states through the value weights. Few
// queries look at many states here, so that saves an eighth of all arithmetic; it is exact, since
// T5's cross-attention has no position bias.
//
// An adapter's products A x and B (A x) come to those of the weights, which are shared: an answer
// is that of the merged weights but for roundings. A is in `precision`, as its operand is; B is
// fp32.
#pragma once

#include <memory>
#include <vector>

#include "model/t5/scorer.h"

namespace tasuki {

class CpuScorer : public T5Scorer {
 public:
  CpuScorer(const T5Config& config, const WeightMap& weights, Precision precision,
            const Kernels& kernels);
  ~CpuScorer() override;

  std::unique_ptr<const T5Scorer> With(const Adapter& adapter) const override;
  using T5Scorer::Score;
  std::vector<std::vector<float>> Score(absl::Span<const Input> inputs, Pass& pass) const override;
  int64_t memory_bytes() const override;

 private:
  struct Network;
  explicit CpuScorer(std::unique_ptr<const Network> network);
  std::unique_ptr<const Network> network_;
};

}  // namespace tasuki
