// Low-rank adapters (LoRA; Hu et al. 2021) under peft's names. Private to model/: includes torch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/t5/config.h"
#include "model/t5/weights.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {

// What comes to some products of a T5: W x becomes W x + scale · B A x.
struct Adapter {
  // Beside "….q.weight" [out, in] stand "….q.lora_A.weight" [rank, in] and "….q.lora_B.weight"
  // [out, rank]. Empty: there is no adapter.
  WeightMap weights;
  double scale = 0;

  // A and scale · B of a weight, "….q.weight"; undefined where it has none.
  struct Pair {
    at::Tensor a, b;
  };
  Pair Of(const std::string& weight) const;
};

// The weights of an adapter for a T5 of this shape. REQUIRES: `lora` resolved by ResolveJob.
std::vector<WeightShape> AdapterWeights(const T5Config& config, const v1::Lora& lora);

// A new one as peft initialises it: A Kaiming-uniform, B 0, so that it changes nothing yet; the
// same seed gives the same bytes.
Adapter InitialAdapter(const T5Config& config, const v1::Lora& lora, int64_t seed);

// `weights` with the adapter merged in, without gradients: W + scale · B A. Those that have none
// are shared.
WeightMap Merge(const WeightMap& weights, const Adapter& adapter);

// Makes `directory` with what PeftModel.from_pretrained reads: adapter_config.json and
// adapter_model.safetensors. `base` is what people know the base by, `tiny-ja@1`.
absl::Status WriteAdapter(const std::string& directory, const Adapter& adapter,
                          const v1::Lora& lora, const std::string& base);

// Reads what WriteAdapter made for a T5 of this shape. INVALID_ARGUMENT, MODEL_INVALID, as in
// ReadWeights. REQUIRES: `lora` as it was written.
absl::StatusOr<Adapter> ReadAdapter(const std::string& directory, const T5Config& config,
                                    const v1::Lora& lora);

}  // namespace tasuki
