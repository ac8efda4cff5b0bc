// What transformers computes from random T5s, as tests/oracles/parity.py writes it: one directory a
// variant, those of tiny size in tests/model/training/golden.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "model/files/safetensors.h"
#include "model/t5/weights.h"

namespace tasuki {

// A golden.safetensors.
class Golden {
 public:
  explicit Golden(const std::string& path) : file_(*SafetensorsFile::Open(path)) {}

  at::Tensor Floats(const std::string& name) const { return Read(name, at::kFloat); }
  // Tensors whose names begin so, by what follows.
  WeightMap Map(const std::string& prefix) const {
    WeightMap map;
    for (const auto& [name, entry] : file_->tensors()) {
      if (name.starts_with(prefix)) map[name.substr(prefix.size())] = Floats(name);
    }
    return map;
  }
  double Number(const std::string& name) const { return Floats(name).item<double>(); }
  std::vector<std::vector<int32_t>> Sequences(const std::string& name) const {
    const at::Tensor ids = Read(name + "_ids", at::kLong);
    const at::Tensor lengths = Read(name + "_lengths", at::kLong);
    std::vector<std::vector<int32_t>> sequences;
    const int64_t* next = ids.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < lengths.numel(); ++i) {
      const int64_t length = lengths[i].item<int64_t>();
      sequences.emplace_back(next, next + length);
      next += length;
    }
    return sequences;
  }

 private:
  at::Tensor Read(const std::string& name, at::ScalarType type) const {
    const TensorEntry& entry = file_->tensors().at(name);
    at::Tensor tensor = at::empty(entry.shape, type);
    EXPECT_EQ(tensor.nbytes(), entry.size_bytes) << name;
    std::memcpy(tensor.data_ptr(), entry.data, entry.size_bytes);
    return tensor;
  }

  std::unique_ptr<SafetensorsFile> file_;
};

inline std::string GoldenDirectory() {
  const char* other = std::getenv("TASUKI_PARITY_DIR");
  return other != nullptr ? other : TASUKI_SOURCE_DIR "/tests/model/training/golden";
}

inline std::vector<std::string> GoldenVariants() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(GoldenDirectory())) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// A variant as part of a test's name.
inline std::string TestName(std::string variant) {
  std::replace_if(
      variant.begin(), variant.end(), [](char c) { return !std::isalnum(c); }, '_');
  return variant;
}

}  // namespace tasuki
