// Weights by transformers' names, in and out of safetensors. Private to model/: includes torch.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/t5/config.h"

namespace tasuki {

// "shared.weight", "encoder.block.0.layer.0.SelfAttention.q.weight", …: fp32, contiguous, on the
// CPU.
using WeightMap = std::map<std::string, at::Tensor>;

struct WeightShape {
  std::string name;
  std::vector<int64_t> shape;
};
// The weights of a T5 of this shape, each once (a tied head and the stacks' copies of the embedding
// are `shared.weight` alone), in the order in which they are written.
std::vector<WeightShape> ExpectedWeights(const T5Config& config);

// New weights as transformers initialises them (Mesh TensorFlow's rules, initializer_factor); the
// same seed gives the same bytes.
WeightMap InitialWeights(const T5Config& config, int64_t seed);

// Reads `expected`, and nothing else, from files of `directory`; F32, F16 and BF16 become fp32.
// What `ignored` says yes to may be there too. INVALID_ARGUMENT, MODEL_INVALID, as in ReadWeights.
absl::StatusOr<WeightMap> ReadTensors(
    const std::string& directory, const std::set<std::string>& files,
    const std::vector<WeightShape>& expected,
    const std::function<bool(const std::string& name)>& ignored = nullptr);

// Reads model.safetensors, or the shards that model.safetensors.index.json names; F32, F16 and BF16
// become fp32. INVALID_ARGUMENT, MODEL_INVALID: a weight missing, unexpected, of another shape than
// the config's, of another dtype, or not finite; the first ten are named.
// Throws c10::Error if memory does not suffice.
absl::StatusOr<WeightMap> ReadWeights(const std::string& directory, const T5Config& config);

// Writes tensors to a safetensors file of F32 and syncs it.
absl::Status WriteTensors(const std::string& path, const WeightMap& tensors,
                          const std::map<std::string, std::string>& metadata);

// Writes model.safetensors (F32, metadata format=pt) into `directory` and syncs it.
absl::Status WriteWeights(const std::string& directory, const WeightMap& weights);

// `device` is `cpu` or `cuda:N`.
WeightMap OnDevice(WeightMap weights, const std::string& device);

}  // namespace tasuki
