// T5 for answering: built once from the weights, immutable. Private to model/: includes torch.
//
// One encoder pass, one decoder pass over the rows of each text's label trie (rows
// see their ancestors only), and of the head only the rows of the children's tokens.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "model/t5/adapter.h"
#include "model/t5/config.h"
#include "model/t5/kernels.h"
#include "model/t5/pass.h"
#include "model/t5/weights.h"
#include "model/text/label_trie.h"

namespace tasuki {

// Thread-safe after construction.
class T5Scorer {
 public:
  struct Input {
    const std::vector<int32_t>* tokens;  // with </s>
    const LabelTrie* labels;
  };

  // For the device on which the weights are. On a CPU they are copied into the form in which they
  // are used, but for the embedding and the head, which must not change while the scorer lives;
  // elsewhere none may. Throws std::bad_alloc or c10::Error.
  // REQUIRES: a precision that the device can do (BestKernels()); on a GPU, fp32 or bf16.
  static std::unique_ptr<const T5Scorer> Make(const T5Config& config, const WeightMap& weights,
                                              Precision precision = Precision::kFp32);
  virtual ~T5Scorer() = default;

  // The same with an adapter beside the weights, which both hold. Throws as Make. REQUIRES: an
  // adapter for this shape, on the device of the weights; this scorer has none.
  virtual std::unique_ptr<const T5Scorer> With(const Adapter& adapter) const = 0;

  // log p of each label of each input. No gradient; dropout off. On a CPU it uses
  // at::get_num_threads() threads. Fills in `pass`. Throws std::bad_alloc or c10::Error.
  virtual std::vector<std::vector<float>> Score(absl::Span<const Input> inputs,
                                                Pass& pass) const = 0;
  std::vector<std::vector<float>> Score(absl::Span<const Input> inputs) const {
    Pass pass;
    return Score(inputs, pass);
  }

  // Bytes that the weights take; of what With made, the adapter's.
  virtual int64_t memory_bytes() const = 0;
};

// log p of each label from the logits of its trie: for each row one for each child, in their order.
std::vector<float> LogProbabilities(const LabelTrie& labels,
                                    absl::Span<const std::vector<float>> logits);

}  // namespace tasuki
