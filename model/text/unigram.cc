#include "model/text/unigram.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "model/errors/errors.h"
#include "model/text/utf8.h"

namespace tasuki {
namespace {

using Model = internal::SentencePieceModel;

enum PieceType { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };
constexpr int kUnigramModel = 1;
constexpr int kMaxPieces = 1'000'000;
constexpr size_t kMaxPieceBytes = 256;
constexpr float kUnknownPenalty = 10.0;
constexpr absl::string_view kSpace = "\xe2\x96\x81";  // U+2581
constexpr absl::string_view kReplacement = "\xef\xbf\xbd";

absl::Status Invalid(absl::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, v1::MODEL_INVALID, message);
}

// T5's models are all of one kind; others are refused rather than read wrongly.
absl::Status CheckKind(const Model& model) {
  const auto& trainer = model.trainer_spec();
  const auto& normalizer = model.normalizer_spec();
  if (trainer.has_model_type() && trainer.model_type() != kUnigramModel) {
    return Invalid("it is not a unigram model, which T5 needs");
  }
  if (trainer.treat_whitespace_as_suffix() ||
      (normalizer.has_escape_whitespaces() && !normalizer.escape_whitespaces()) ||
      !model.denormalizer_spec().precompiled_charsmap().empty()) {
    return Invalid("it treats spaces or output in a way that T5's tokenizers do not");
  }
  if (model.pieces_size() == 0 || model.pieces_size() > kMaxPieces) {
    return Invalid(
        absl::StrCat("it has ", model.pieces_size(), " pieces, which is not in 1 to 1,000,000"));
  }
  return absl::OkStatus();
}

std::optional<std::string> FindPieceFault(const Model::Piece& piece, int type) {
  const std::string& text = piece.piece();
  if (text.empty()) return "is empty";
  if (text.size() > kMaxPieceBytes) return absl::StrCat("has ", text.size(), " bytes, over 256");
  if (absl::StrContains(text, '\0')) return "holds a NUL";
  if (FirstInvalidUtf8(text) != text.npos) return "is not UTF-8";
  if (!std::isfinite(piece.score())) return "has a score that is not a finite number";
  if (type < kNormal || type > kByte) return absl::StrCat("has the unknown type ", type);
  return std::nullopt;
}

// The byte that a piece such as "<0x0A>" stands for; -1 if it stands for none.
int ByteOf(const std::string& piece) {
  unsigned byte = 0;
  if (std::sscanf(piece.c_str(), "<0x%2X>", &byte) != 1) return -1;
  return piece == absl::StrFormat("<0x%02X>", byte) ? static_cast<int>(byte) : -1;
}

}  // namespace

absl::StatusOr<Unigram> Unigram::Make(const Model& model) {
  if (absl::Status status = CheckKind(model); !status.ok()) return status;
  Unigram unigram;
  const auto& normalizer = model.normalizer_spec();
  if (normalizer.has_add_dummy_prefix()) unigram.add_dummy_prefix_ = normalizer.add_dummy_prefix();
  if (normalizer.has_remove_extra_whitespaces()) {
    unigram.remove_extra_spaces_ = normalizer.remove_extra_whitespaces();
  }
  absl::StatusOr<Charsmap> charsmap = Charsmap::Parse(normalizer.precompiled_charsmap());
  if (!charsmap.ok()) return charsmap.status();
  unigram.charsmap_ = *std::move(charsmap);
  if (absl::Status status = unigram.AddPieces(model); !status.ok()) return status;
  if (absl::Status status = unigram.MakeTries(); !status.ok()) return status;
  return unigram;
}

absl::Status Unigram::AddPieces(const Model& model) {
  std::vector<int> byte_ids(256, -1);
  min_score_ = FLT_MAX;
  max_score_ = FLT_MIN;
  for (int id = 0; id < model.pieces_size(); ++id) {
    const Model::Piece& piece = model.pieces(id);
    const int type = piece.has_type() ? piece.type() : kNormal;
    if (const auto fault = FindPieceFault(piece, type)) {
      return Invalid(absl::StrCat("piece ", id, " ", *fault, ": ", Excerpt(piece.piece())));
    }
    const int byte = type == kByte ? ByteOf(piece.piece()) : -1;
    if (type == kByte && (byte < 0 || !model.trainer_spec().byte_fallback())) {
      return Invalid(absl::StrCat("piece ", id, " is no byte: ", Excerpt(piece.piece())));
    }
    if (byte >= 0) byte_ids[byte] = id;
    if (type == kUnknown && unk_id_ >= 0) return Invalid("it has two unknown pieces");
    if (type == kUnknown) unk_id_ = id;
    if (type == kNormal) {
      min_score_ = std::min(min_score_, piece.score());
      max_score_ = std::max(max_score_, piece.score());
    }
    pieces_.push_back({piece.piece(), piece.score(), type, byte});
  }
  if (unk_id_ < 0) return Invalid("it has no unknown piece");
  if (!model.trainer_spec().byte_fallback()) return absl::OkStatus();
  if (std::count(byte_ids.begin(), byte_ids.end(), -1) > 0) {
    return Invalid("it falls back to bytes, but does not have all 256");
  }
  byte_ids_ = std::move(byte_ids);
  return absl::OkStatus();
}

absl::Status Unigram::MakeTries() {
  std::vector<std::pair<absl::string_view, int>> words, user_defined;
  for (int id = 0; id < size(); ++id) {
    const Piece& piece = pieces_[id];
    if (piece.type == kUserDefined) user_defined.emplace_back(piece.text, id);
    if (piece.type == kNormal || piece.type == kUserDefined || piece.type == kUnused) {
      words.emplace_back(piece.text, id);
    }
  }
  if (words.empty()) return Invalid("it has no pieces but special ones");
  auto vocabulary = ByteTrie::Build(std::move(words));
  if (!vocabulary) return Invalid("it has a piece twice");
  vocabulary_ = *std::move(vocabulary);
  user_defined_ = *ByteTrie::Build(std::move(user_defined));
  return absl::OkStatus();
}

absl::string_view Unigram::NormalizeNext(absl::string_view text, size_t& length) const {
  length = 0;
  int node = ByteTrie::kRoot;
  for (size_t i = 0; i < text.size() && !user_defined_.empty(); ++i) {
    node = user_defined_.Child(node, text[i]);
    if (node == ByteTrie::kNone) break;
    if (user_defined_.value(node) != ByteTrie::kNone) length = i + 1;
  }
  if (length > 0) return text.substr(0, length);
  const Charsmap::Match match = charsmap_.Find(text);
  length = match.length;
  if (length > 0) return match.replacement;
  // An entry of the table may have ended inside of a character.
  length = CharacterLength(text);
  if (length > 0) return text.substr(0, length);
  length = 1;
  return kReplacement;
}

std::string Unigram::Normalize(absl::string_view text) const {
  size_t length = 0;
  while (remove_extra_spaces_ && !text.empty() && NormalizeNext(text, length) == " ") {
    text.remove_prefix(length);
  }
  std::string normalized;
  if (text.empty()) return normalized;
  normalized.reserve(text.size() + kSpace.size());
  if (add_dummy_prefix_) absl::StrAppend(&normalized, kSpace);
  bool after_space = remove_extra_spaces_;
  while (!text.empty()) {
    absl::string_view part = NormalizeNext(text, length);
    text.remove_prefix(length);
    while (after_space && absl::ConsumePrefix(&part, " ")) continue;
    for (const char c : part) {
      if (c == ' ') {
        absl::StrAppend(&normalized, kSpace);
      } else {
        normalized += c;
      }
    }
    if (!part.empty()) after_space = remove_extra_spaces_ && part.back() == ' ';
  }
  while (remove_extra_spaces_ && absl::EndsWith(normalized, kSpace)) {
    normalized.resize(normalized.size() - kSpace.size());
  }
  return normalized;
}

std::vector<Unigram::Segment> Unigram::FindBest(absl::string_view normalized) const {
  struct Best {
    int id = -1;
    float score = 0;  // of the best path that ends here
    int begin = -1;   // of its last piece
  };
  // Sums in the library's types, double here and float there: other roundings choose other pieces.
  std::vector<Best> best(normalized.size() + 1);
  const auto offer = [&best](size_t begin, size_t end, int id, double score) {
    if (best[end].begin != -1 && !(score > best[end].score)) return;
    best[end] = {id, static_cast<float>(score), static_cast<int>(begin)};
  };
  const float unknown_score = min_score_ - kUnknownPenalty;
  for (size_t begin = 0; begin < normalized.size();) {
    const float score_here = best[begin].score;
    const size_t character = std::max<size_t>(CharacterLength(normalized.substr(begin)), 1);
    bool has_character = false;
    int node = ByteTrie::kRoot;
    for (size_t end = begin; end < normalized.size();) {
      node = vocabulary_.Child(node, normalized[end++]);
      if (node == ByteTrie::kNone) break;
      const int id = vocabulary_.value(node);
      if (id == ByteTrie::kNone || pieces_[id].type == kUnused) continue;
      const size_t length = end - begin;
      // A user-defined piece is always chosen.
      const double score = pieces_[id].type == kUserDefined
                               ? static_cast<float>(length) * max_score_ - 0.1
                               : pieces_[id].score;
      offer(begin, end, id, score + score_here);
      has_character = has_character || length == character;
    }
    if (!has_character) offer(begin, begin + character, unk_id_, unknown_score + score_here);
    begin += character;
  }
  std::vector<Segment> segments;
  for (int end = normalized.size(); end > 0; end = best[end].begin) {
    segments.push_back({best[end].id, normalized.substr(best[end].begin, end - best[end].begin)});
  }
  std::reverse(segments.begin(), segments.end());
  return segments;
}

std::vector<int32_t> Unigram::Encode(absl::string_view text) const {
  const std::string normalized = Normalize(text);
  std::vector<int32_t> ids;
  for (const Segment& segment : FindBest(normalized)) {
    if (segment.id == unk_id_ && !byte_ids_.empty()) {
      for (const char c : segment.text) ids.push_back(byte_ids_[static_cast<uint8_t>(c)]);
    } else if (segment.id != unk_id_ || ids.empty() || ids.back() != unk_id_) {
      ids.push_back(segment.id);  // of unknown characters in a row only the first counts
    }
  }
  return ids;
}

std::string Unigram::Decode(const std::vector<int32_t>& ids) const {
  std::string text, bytes;
  const auto flush = [&] {
    for (absl::string_view rest = bytes; !rest.empty();) {
      const size_t length = CharacterLength(rest);
      absl::StrAppend(&text, length > 0 ? rest.substr(0, length) : kReplacement);
      rest.remove_prefix(std::max<size_t>(length, 1));
    }
    bytes.clear();
  };
  for (const int32_t id : ids) {
    if (id < 0 || id >= size()) continue;
    const Piece& piece = pieces_[id];
    if (piece.type == kByte) {
      bytes += static_cast<char>(piece.byte);
    } else if (piece.type != kControl && piece.type != kUnknown) {
      flush();
      absl::StrAppend(&text, absl::StrReplaceAll(piece.text, {{kSpace, " "}}));
    }
  }
  flush();
  return text;
}

}  // namespace tasuki
