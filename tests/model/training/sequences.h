// Token sequences in a safetensors file, for the oracles.
#pragma once

#include <ATen/ATen.h>

#include <string>
#include <vector>

#include "model/t5/weights.h"

namespace tasuki {

// `NAME_ids`, one sequence after the other, and `NAME_lengths`: float32, exact up to 2^24.
inline void AddSequences(const std::string& name,
                         const std::vector<std::vector<int32_t>>& sequences, WeightMap& to) {
  std::vector<float> ids, lengths;
  for (const std::vector<int32_t>& sequence : sequences) {
    ids.insert(ids.end(), sequence.begin(), sequence.end());
    lengths.push_back(static_cast<float>(sequence.size()));
  }
  to[name + "_ids"] = at::tensor(ids);
  to[name + "_lengths"] = at::tensor(lengths);
}

}  // namespace tasuki
