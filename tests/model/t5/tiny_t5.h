// Small random T5s and what feeds them, for the tests of model/t5.
#pragma once

#include <ATen/ATen.h>
#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "model/t5/adapter.h"
#include "model/t5/config.h"
#include "model/t5/t5.h"
#include "model/t5/weights.h"
#include "model/text/label_trie.h"
#include "model/text/tokenizer.h"

namespace tasuki {

inline constexpr int32_t kEnd = 1;

// heads * d_kv is not d_model, and the stacks differ in depth.
inline T5Config TinyConfig(bool gated = false) {
  T5Config config;
  config.vocab_size = 60;
  config.d_model = 16;
  config.d_kv = 4;
  config.d_ff = 24;
  config.num_layers = 2;
  config.num_decoder_layers = 3;
  config.num_heads = 3;
  config.gated = gated;
  config.tie_word_embeddings = !gated;
  return config;
}

// As initialised, but for norms that differ from one.
inline WeightMap TinyWeights(const T5Config& config, int64_t seed = 1) {
  WeightMap weights = InitialWeights(config, seed);
  at::manual_seed(seed);
  for (auto& [name, weight] : weights) {
    if (weight.dim() == 1) weight.add_(at::randn_like(weight), .3);
  }
  return weights;
}

inline v1::Lora LoraOf(const std::vector<std::string>& modules) {
  v1::Lora lora;
  lora.set_rank(2);
  lora.set_alpha(6);
  lora.set_dropout(0);
  for (const std::string& module : modules) lora.add_target_modules(module);
  return lora;
}

inline std::vector<std::string> AllModules(bool gated) {
  std::vector<std::string> modules = {"q", "k", "v", "o", "wo"};
  for (const char* in : {"wi_0", "wi_1"}) {
    if (gated) modules.push_back(in);
  }
  if (!gated) modules.push_back("wi");
  return modules;
}

// One whose B is not 0.
inline Adapter LearntAdapter(const T5Config& config, const v1::Lora& lora) {
  Adapter adapter = InitialAdapter(config, lora, 7);
  at::manual_seed(7);
  for (auto& [name, weight] : adapter.weights) {
    if (name.ends_with("lora_B.weight")) weight.normal_(0, .2);
  }
  return adapter;
}

// `length` random tokens, the last of them </s>.
inline std::vector<int32_t> RandomTokens(int length, std::mt19937& random,
                                         int64_t vocabulary = 60) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < length - 1; ++i) {
    tokens.push_back(3 + static_cast<int32_t>(random() % (vocabulary - 3)));
  }
  tokens.push_back(kEnd);
  return tokens;
}

// Each letter is a token, 'a' is 3.
class LetterTokenizer : public Tokenizer {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text) const override {
    std::vector<int32_t> ids;
    for (char letter : text) ids.push_back(letter - 'a' + 3);
    return ids;
  }
  std::string Decode(const std::vector<int32_t>& ids) const override {
    std::string text;
    for (int32_t id : ids) text.push_back(static_cast<char>('a' + id - 3));
    return text;
  }
  int32_t size() const override { return 60; }
  int32_t pad_id() const override { return 0; }
  int32_t eos_id() const override { return kEnd; }
  int32_t unk_id() const override { return 2; }
  int32_t sentinel_id(int i) const override { return 59 - i; }
};

inline LabelTrie TrieOf(const std::vector<std::string>& labels) {
  v1::Task task;
  task.set_name("task");
  for (const std::string& label : labels) {
    v1::Label* added = task.add_labels();
    added->set_name(label);
    added->set_target_text(label);
  }
  return LabelTrie::Build(task, LetterTokenizer()).value();
}

// A directory that is removed with its object.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = ::testing::TempDir() + "t5.XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }
  std::string At(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace tasuki
