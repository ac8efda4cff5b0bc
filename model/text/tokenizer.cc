#include "model/text/tokenizer.h"

#include <map>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/text/unigram.h"
#include "model/text/utf8.h"
#include "tasuki/internal/sentencepiece.pb.h"

namespace tasuki {
namespace {

using Model = internal::SentencePieceModel;

constexpr size_t kMaxFileBytes = size_t{64} << 20;
constexpr int kControl = 3;

absl::Status Invalid(absl::string_view message) {
  return MakeError(absl::StatusCode::kInvalidArgument, v1::MODEL_INVALID, message);
}

// i of <extra_id_i>, which mT5 writes with the mark of a space.
std::optional<int> SentinelNumber(absl::string_view piece) {
  absl::ConsumePrefix(&piece, "▁");
  int number = 0;
  if (!absl::ConsumePrefix(&piece, "<extra_id_") || !absl::ConsumeSuffix(&piece, ">") ||
      !absl::SimpleAtoi(piece, &number) || absl::StrCat(number) != piece || number < 0 ||
      number >= kSentinelCount) {
    return std::nullopt;
  }
  return number;
}

std::optional<int> FindControl(const Model& model, absl::string_view name) {
  for (int id = 0; id < model.pieces_size(); ++id) {
    if (model.pieces(id).type() == kControl && model.pieces(id).piece() == name) return id;
  }
  return std::nullopt;
}

// Ids of the sentinels that the model holds; these become control pieces, which no text gives.
std::map<int, int> ClaimSentinels(Model& model) {
  std::map<int, int> ids;
  for (int id = 0; id < model.pieces_size(); ++id) {
    const auto number = SentinelNumber(model.pieces(id).piece());
    if (!number) continue;
    ids.emplace(*number, id);
    model.mutable_pieces(id)->set_type(kControl);
  }
  return ids;
}

class UnigramTokenizer : public Tokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Make(const std::string& bytes) {
    Model model;
    if (!model.ParseFromString(bytes)) return Invalid("it is not a SentencePiece model");
    const std::map<int, int> sentinels = ClaimSentinels(model);
    absl::StatusOr<Unigram> unigram = Unigram::Make(model);
    if (!unigram.ok()) return unigram.status();
    const std::optional<int> pad = FindControl(model, "<pad>"), eos = FindControl(model, "</s>");
    if (!pad || !eos) return Invalid("it has no control piece <pad> or </s>");
    auto tokenizer = std::make_unique<UnigramTokenizer>(*std::move(unigram));
    tokenizer->pad_id_ = *pad;
    tokenizer->eos_id_ = *eos;
    if (sentinels.size() == kSentinelCount) {
      for (const auto& [number, id] : sentinels) tokenizer->sentinel_ids_.push_back(id);
    }
    return tokenizer;
  }

  explicit UnigramTokenizer(Unigram unigram) : unigram_(std::move(unigram)) {}

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text) const override {
    const size_t invalid = FirstInvalidUtf8(text);
    if (invalid == text.npos) return unigram_.Encode(text);
    return MakeError(absl::StatusCode::kInvalidArgument, v1::FIELD_INVALID,
                     absl::StrCat("the text is not UTF-8 at byte ", invalid));
  }
  std::string Decode(const std::vector<int32_t>& ids) const override {
    return std::string(absl::StripAsciiWhitespace(unigram_.Decode(ids)));
  }

  int32_t size() const override {
    return unigram_.size() + (sentinel_ids_.empty() ? kSentinelCount : 0);
  }
  int32_t pad_id() const override { return pad_id_; }
  int32_t eos_id() const override { return eos_id_; }
  int32_t unk_id() const override { return unigram_.unk_id(); }
  int32_t sentinel_id(int i) const override {
    return sentinel_ids_.empty() ? size() - 1 - i : sentinel_ids_[i];
  }

 private:
  const Unigram unigram_;
  int pad_id_ = 0, eos_id_ = 0;
  std::vector<int> sentinel_ids_;  // empty unless the model holds all of them
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& path) {
  const absl::StatusOr<std::string> bytes = ReadFile(path, kMaxFileBytes);
  if (!bytes.ok()) return bytes.status();
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = UnigramTokenizer::Make(*bytes);
  if (tokenizer.ok()) return tokenizer;
  return Annotate(tokenizer.status(), absl::StrCat(path.substr(path.rfind('/') + 1), ": "));
}

}  // namespace tasuki
