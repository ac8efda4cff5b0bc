#include <signal.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/text/child_program.h"
#include "model/text/tokenizer.h"
#include "tasuki/internal/sentencepiece.pb.h"

namespace tasuki {
namespace {

// SentencePiece's cost grows faster than a sentence, so long texts are cut.
constexpr size_t kMaxSentenceBytes = 4000;
// Its suffix array takes some 30 bytes for one of text.
constexpr size_t kMaxCorpusBytes = size_t{64} << 20;
// Share of all characters that get a piece of their own.
constexpr const char* kCoverage = "0.9995";
constexpr const char* kFullCoverage = "1.0";
constexpr char kProgram[] = "tasuki-tokenizer-trainer";

absl::Status Refused(absl::string_view cause) {
  if (absl::StrContains(cause, "sentences_.empty()")) cause = "they hold nothing but spaces";
  // SentencePiece puts its source line and the failed condition in brackets first.
  const size_t condition = cause.rfind("] ");
  if (condition != cause.npos) cause.remove_prefix(condition + 2);
  cause = absl::StripAsciiWhitespace(cause);
  return MakeError(absl::StatusCode::kInvalidArgument, v1::FIELD_INVALID,
                   absl::StrCat("no tokenizer can be made of these texts: ", cause));
}

// A signal ended the program: no fault of the texts.
absl::Status Died(int signal) {
  if (signal == SIGKILL) {
    return MakeError(absl::StatusCode::kResourceExhausted, v1::OUT_OF_MEMORY,
                     absl::StrCat(kProgram,
                                  " was killed, most likely since memory had run out; "
                                  "fewer texts take less"));
  }
  return absl::InternalError(
      absl::StrCat(kProgram, " was ended by signal ", signal, " (", strsignal(signal), ")"));
}

std::vector<std::string> FlagsFor(const TokenizerTraining& options, absl::string_view model_type,
                                  absl::string_view coverage) {
  return {absl::StrCat("--model_type=", model_type),
          absl::StrCat("--vocab_size=", options.vocabulary_size),
          "--hard_vocab_limit=false",
          absl::StrCat("--character_coverage=", coverage),
          "--normalization_rule_name=nmt_nfkc",
          "--pad_id=0",
          "--eos_id=1",
          "--unk_id=2",
          "--bos_id=-1",
          "--pad_piece=<pad>",
          "--eos_piece=</s>",
          absl::StrCat("--max_sentence_length=", kMaxSentenceBytes),
          "--shuffle_input_sentence=false",
          absl::StrCat("--num_threads=", std::max(options.threads, 1)),
          "--minloglevel=2"};
}

void AppendInParts(absl::string_view text, std::vector<std::string>& sentences) {
  while (!text.empty()) {
    size_t end = std::min(text.size(), kMaxSentenceBytes);
    // Not inside of a character, which has at most 3 bytes more than its first.
    for (int back = 0; back < 3 && end < text.size() && (text[end] & 0xC0) == 0x80; ++back) --end;
    sentences.emplace_back(text.substr(0, end));
    text.remove_prefix(end);
  }
}

// The texts, or every k-th of them where they are too many.
std::vector<std::string> MakeCorpus(const std::vector<std::string>& texts) {
  size_t bytes = 0;
  for (const std::string& text : texts) bytes += text.size();
  const size_t stride = std::max<size_t>(1, (bytes + kMaxCorpusBytes - 1) / kMaxCorpusBytes);
  std::vector<std::string> sentences;
  for (size_t i = 0; i < texts.size(); i += stride) AppendInParts(texts[i], sentences);
  return sentences;
}

// Runs SentencePiece over the sentences; answers the bytes of the model. Files come and go beside
// `path`.
absl::StatusOr<std::string> Train(const std::vector<std::string>& sentences,
                                  const std::vector<std::string>& flags, const std::string& path) {
  const std::string texts_path = path + ".texts", model_path = path + ".new";
  const absl::Cleanup remove = [&] {
    RemoveAll(texts_path).IgnoreError();
    RemoveAll(model_path).IgnoreError();
  };
  std::string texts;
  for (const std::string& sentence : sentences) texts.append(sentence.c_str()).push_back('\0');
  if (absl::Status status = WriteFile(texts_path, texts); !status.ok()) return status;
  std::vector<std::string> arguments = {texts_path, model_path};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  const absl::StatusOr<ProgramEnd> end = RunProgram(kProgram, arguments);
  if (!end.ok()) return end.status();
  if (end->signal != 0) return Died(end->signal);
  if (end->exit_code != 0) return Refused(end->output);
  return ReadFile(model_path);
}

// Every character of the texts, as the normaliser leaves it: the pieces of a model of characters.
absl::StatusOr<std::string> AlphabetOf(const std::vector<std::string>& texts,
                                       TokenizerTraining options, const std::string& path) {
  options.vocabulary_size = 1'000'000;
  const auto bytes = Train(texts, FlagsFor(options, "char", kFullCoverage), path);
  if (!bytes.ok()) return bytes.status();
  internal::SentencePieceModel model;
  model.ParseFromString(*bytes);
  std::string alphabet;
  for (const auto& piece : model.pieces()) {
    if (piece.type() <= 1) alphabet += piece.piece();
  }
  return alphabet;
}

// True if the model at `path` has a piece for every character of every text.
absl::StatusOr<bool> Covers(const std::string& path, const std::vector<std::string>& texts) {
  const absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Load(path);
  if (!tokenizer.ok()) return tokenizer.status();
  for (const std::string& text : texts) {
    const absl::StatusOr<std::vector<int32_t>> ids = (*tokenizer)->Encode(text);
    if (!ids.ok()) return ids.status();
    if (std::find(ids->begin(), ids->end(), (*tokenizer)->unk_id()) != ids->end()) return false;
  }
  return true;
}

}  // namespace

absl::Status TrainTokenizer(const std::vector<std::string>& texts, const TokenizerTraining& options,
                            const std::string& path) {
  std::vector<std::string> sentences = MakeCorpus(texts);
  std::string required;
  if (!options.required_texts.empty()) {
    const auto alphabet = AlphabetOf(options.required_texts, options, path);
    if (!alphabet.ok()) return Annotate(alphabet.status(), "required texts: ");
    required = *alphabet;
    for (const std::string& text : options.required_texts) AppendInParts(text, sentences);
  }
  // SentencePiece leaves out required characters where the others make up the coverage.
  for (const char* coverage : {kCoverage, kFullCoverage}) {
    std::vector<std::string> flags = FlagsFor(options, "unigram", coverage);
    if (!required.empty()) flags.push_back("--required_chars=" + required);
    const absl::StatusOr<std::string> model = Train(sentences, flags, path);
    if (!model.ok()) return model.status();
    if (absl::Status status = WriteFile(path, *model); !status.ok()) return status;
    const absl::StatusOr<bool> covers = Covers(path, options.required_texts);
    if (!covers.ok()) return covers.status();
    if (*covers) return absl::OkStatus();
  }
  RemoveAll(path).IgnoreError();
  return Refused("a required text has a character that cannot have a piece");
}

}  // namespace tasuki
