// T5Scorer by LibTorch's operators: for GPUs, and what CpuScorer is compared with. fp32. Private to
// model/: includes torch.
#pragma once

#include <memory>
#include <vector>

#include "model/t5/scorer.h"

namespace tasuki {

class TorchScorer : public T5Scorer {
 public:
  // Weights are not copied where their layout serves as it is.
  TorchScorer(const T5Config& config, const WeightMap& weights);
  ~TorchScorer() override;

  std::unique_ptr<const T5Scorer> With(const Adapter& adapter) const override;
  std::vector<std::vector<float>> Score(absl::Span<const Input> inputs) const override;
  int64_t memory_bytes() const override;

 private:
  struct Prepared;
  explicit TorchScorer(std::unique_ptr<const Prepared> prepared);
  std::unique_ptr<const Prepared> prepared_;
};

}  // namespace tasuki
