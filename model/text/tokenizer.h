// SentencePiece (Kudo and Richardson 2018) as T5 uses it.
//
// Ids: those of spiece.model, then 100 sentinels <extra_id_99> … <extra_id_0> as transformers
// numbers them (sentinel i is size - 1 - i, where size = pieces + 100), unless the model holds them
// as pieces of its own. Encoding is that of the SentencePiece library and of transformers'
// T5Tokenizer (legacy=true, split_special_tokens=True): the model's own normaliser. No control
// piece or sentinel ever arises from a text: "</s>" or "<extra_id_0>" in it is encoded like any
// other characters. (With legacy=false transformers puts <unk> before the text, which changes
// roundings and so, in a few texts of a thousand, the choice between segmentations of equal score.)
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace tasuki {

inline constexpr int kSentinelCount = 100;

// Immutable after Load; thread-safe.
class Tokenizer {
 public:
  // Refuses what T5 does not use and what could do harm (see unigram.h and charsmap.h): a file of a
  // stranger can be opened here. INVALID_ARGUMENT, MODEL_INVALID, naming the file and the piece;
  // NOT_FOUND.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& path);
  virtual ~Tokenizer() = default;

  // Ids of the text, without </s>. Invalid UTF-8 is INVALID_ARGUMENT.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text) const = 0;
  // Text of the ids, as transformers' decode(…, skip_special_tokens=True): control, unknown and
  // sentinel ids are left out, also ids beyond size(); spaces at the ends are removed.
  virtual std::string Decode(const std::vector<int32_t>& ids) const = 0;

  // Pieces and sentinels.
  virtual int32_t size() const = 0;
  virtual int32_t pad_id() const = 0;  // 0 in T5
  virtual int32_t eos_id() const = 0;  // 1 in T5
  virtual int32_t unk_id() const = 0;  // 2 in T5
  // Id of <extra_id_i>, 0 <= i < kSentinelCount.
  virtual int32_t sentinel_id(int i) const = 0;
};

struct TokenizerTraining {
  int vocabulary_size = 8000;  // pieces, without sentinels; fewer if the texts do not have as many
  // Texts whose characters must be in the vocabulary, such as labels.
  std::vector<std::string> required_texts;
  int threads = 2;
};

// Trains a unigram model with T5's control ids (pad 0, </s> 1, <unk> 2, no <s>), nmt_nfkc
// normalisation and character coverage .9995, and writes it to `path`; other files come and go
// beside it. Of more than 64 MiB of texts every k-th is taken. The same texts and options give the
// same bytes. Runs `tasuki-tokenizer-trainer`, which must lie beside the running program.
// INVALID_ARGUMENT if no model can be made of the texts, or none of so few pieces. If that program
// dies: RESOURCE_EXHAUSTED, OUT_OF_MEMORY if it was killed, else INTERNAL, without a reason.
absl::Status TrainTokenizer(const std::vector<std::string>& texts, const TokenizerTraining& options,
                            const std::string& path);

}  // namespace tasuki
