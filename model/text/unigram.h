// The unigram language model of SentencePiece: normalising a text and finding its best pieces.
//
// Answers what the SentencePiece library 0.1.97 answers, number by number (a test compares them).
// The library itself is not used here: it ends the process on crafted models, and Debian's cannot
// share a process with another Protocol Buffers (see model/tokenizer_trainer/main.cc).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "model/text/byte_trie.h"
#include "model/text/charsmap.h"
#include "tasuki/internal/sentencepiece.pb.h"

namespace tasuki {

// Immutable after Make; thread-safe.
class Unigram {
 public:
  // Accepts unigram models of 1 to 1,000,000 pieces, each 1 to 256 bytes of UTF-8 without NUL, with
  // finite scores and exactly one unknown piece. INVALID_ARGUMENT, MODEL_INVALID, naming the piece.
  static absl::StatusOr<Unigram> Make(const internal::SentencePieceModel& model);

  // Ids of the best pieces. `text` must be UTF-8.
  std::vector<int32_t> Encode(absl::string_view text) const;
  // Text of normal pieces; other ids are left out, bytes that are not UTF-8 are U+FFFD.
  std::string Decode(const std::vector<int32_t>& ids) const;

  int size() const { return static_cast<int>(pieces_.size()); }
  int unk_id() const { return unk_id_; }

 private:
  struct Piece {
    std::string text;
    float score = 0;
    int type = 0;
    int byte = -1;  // of a byte piece
  };

  Unigram() = default;
  absl::Status AddPieces(const internal::SentencePieceModel& model);
  absl::Status MakeTries();
  std::string Normalize(absl::string_view text) const;
  // What the text begins with, normalised; `length` gets the length of what it stands for.
  absl::string_view NormalizeNext(absl::string_view text, size_t& length) const;
  // Ids of the best segmentation, with the bytes that each covers.
  struct Segment {
    int id;
    absl::string_view text;
  };
  std::vector<Segment> FindBest(absl::string_view normalized) const;

  std::vector<Piece> pieces_;
  ByteTrie vocabulary_;    // normal, user-defined and unused pieces
  ByteTrie user_defined_;  // kept as they are by the normaliser
  Charsmap charsmap_;
  std::vector<int> byte_ids_;  // 256 where unknown characters become bytes, else empty
  int unk_id_ = -1;
  float min_score_ = 0, max_score_ = 0;
  bool add_dummy_prefix_ = true, remove_extra_spaces_ = true;
};

}  // namespace tasuki
