// T5 for answering: built once from the weights, immutable. Private to model/: includes torch.
//
// One encoder pass without padding, one decoder pass over the rows of each text's label trie (rows
// see their ancestors only), and of the head only the rows of the children's tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "model/t5/config.h"
#include "model/t5/weights.h"
#include "model/text/label_trie.h"

namespace tasuki {

// Thread-safe after construction. Weights are not copied where their layout serves as it is: they
// must not change while the scorer lives.
class T5Scorer {
 public:
  struct Input {
    const std::vector<int32_t>* tokens;  // with </s>
    const LabelTrie* labels;
  };

  T5Scorer(const T5Config& config, const WeightMap& weights);
  ~T5Scorer();
  T5Scorer(T5Scorer&&) noexcept;

  // log p of each label of each input. No gradient; dropout off. Throws c10::Error.
  std::vector<std::vector<float>> Score(absl::Span<const Input> inputs) const;

  // Bytes that the weights take.
  int64_t memory_bytes() const;

 private:
  struct Prepared;
  std::unique_ptr<const Prepared> prepared_;
};

}  // namespace tasuki
