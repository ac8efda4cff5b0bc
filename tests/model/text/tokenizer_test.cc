#include "model/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <random>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "tasuki/internal/sentencepiece.pb.h"

namespace tasuki {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::Each;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Lt;
using ::testing::Not;

using Model = internal::SentencePieceModel;

std::string PathOf(const std::string& name) {
  return absl::StrCat(testing::TempDir(), "tokenizer_test.", getpid(), ".", name);
}

std::vector<std::string> Reviews() {
  std::vector<std::string> texts;
  const std::vector<std::string> things = {"本", "映画", "電池",  "靴",
                                           "鞄", "時計", "music", "game"};
  const std::vector<std::string> words = {"とても良い",  "悪くない",  "壊れていた", "また買いたい",
                                          "really good", "too small", "普通です"};
  for (const std::string& thing : things) {
    for (const std::string& word : words) {
      for (int i = 0; i < 3; ++i) {
        texts.push_back(absl::StrCat(thing, "は", word, "。", i, "回目の注文です。"));
      }
    }
  }
  return texts;
}

TokenizerTraining Options() {
  TokenizerTraining options;
  options.vocabulary_size = 200;
  options.required_texts = {"positive", "肯定", "Ｑ"};
  return options;
}

// A model that every test may read; made once.
const std::string& TrainedPath() {
  static const std::string* const path = [] {
    auto* trained = new std::string(PathOf("spiece.model"));
    const absl::Status status = TrainTokenizer(Reviews(), Options(), *trained);
    EXPECT_TRUE(status.ok()) << status;
    return trained;
  }();
  return *path;
}

Model TrainedModel() {
  Model model;
  EXPECT_TRUE(model.ParseFromString(*ReadFile(TrainedPath())));
  return model;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadBytes(const std::string& bytes) {
  const std::string path = PathOf("crafted.model");
  EXPECT_TRUE(WriteFile(path, bytes).ok());
  auto tokenizer = Tokenizer::Load(path);
  std::filesystem::remove(path);
  return tokenizer;
}

std::unique_ptr<Tokenizer> Trained() {
  auto tokenizer = Tokenizer::Load(TrainedPath());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

TEST(Tokenizer, NumbersControlPiecesAndSentinelsAsT5Does) {
  const auto tokenizer = Trained();
  const int pieces = TrainedModel().pieces_size();
  EXPECT_EQ(tokenizer->pad_id(), 0);
  EXPECT_EQ(tokenizer->eos_id(), 1);
  EXPECT_EQ(tokenizer->unk_id(), 2);
  EXPECT_EQ(tokenizer->size(), pieces + 100);
  EXPECT_EQ(tokenizer->sentinel_id(0), pieces + 99);
  EXPECT_EQ(tokenizer->sentinel_id(99), pieces);
}

TEST(Tokenizer, DecodesWhatItEncodes) {
  const auto tokenizer = Trained();
  for (const char* text : {"映画はとても良い。", "music game", "positive", "肯定", "Q"}) {
    const auto ids = tokenizer->Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_THAT(*ids, Not(Contains(2)));
    EXPECT_EQ(tokenizer->Decode(*ids), text);
  }
  // NFKC and single spaces are the normaliser's.
  EXPECT_EQ(*tokenizer->Encode(" ｍｕｓｉｃ　\n game "), *tokenizer->Encode("music game"));
  for (const char* blank : {"", " ", "\n\t　"}) EXPECT_THAT(*tokenizer->Encode(blank), IsEmpty());
}

TEST(Tokenizer, LeavesSpecialAndUnknownIdsOutOfTheText) {
  const auto tokenizer = Trained();
  std::vector<int32_t> ids = *tokenizer->Encode("映画");
  ids.insert(ids.begin(), 0);
  for (const int32_t id : {1, 2, tokenizer->sentinel_id(0), tokenizer->size() + 28, -1}) {
    ids.push_back(id);
  }
  EXPECT_EQ(tokenizer->Decode(ids), "映画");
  EXPECT_EQ(tokenizer->Decode({}), "");
}

TEST(Tokenizer, NeverMakesControlOrSentinelIdsOfAText) {
  const auto tokenizer = Trained();
  const int pieces = tokenizer->size() - kSentinelCount;
  for (const char* text : {"</s>", "<pad>", "<unk>", "<extra_id_0>", "a</s><extra_id_99> b<pad>"}) {
    const auto ids = tokenizer->Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_THAT(*ids, AllOf(Not(IsEmpty()), Each(AllOf(Ge(2), Lt(pieces))))) << text;
  }
}

TEST(Tokenizer, NeverMakesASentinelThatTheModelHoldsOfAText) {
  for (const char* mark : {"", "▁"}) {
    Model model = TrainedModel();
    const int pieces = model.pieces_size();
    for (int i = 99; i >= 0; --i) {
      auto& piece = *model.add_pieces();
      piece.set_piece(absl::StrCat(mark, "<extra_id_", i, ">"));
      piece.set_type(4);
    }
    const auto tokenizer = LoadBytes(model.SerializeAsString());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_EQ((*tokenizer)->size(), pieces + 100);
    EXPECT_EQ((*tokenizer)->sentinel_id(0), pieces + 99);
    EXPECT_EQ((*tokenizer)->sentinel_id(99), pieces);
    EXPECT_THAT(*(*tokenizer)->Encode("a <extra_id_0><extra_id_99>"),
                AllOf(Not(IsEmpty()), Each(Lt(pieces))));
    EXPECT_EQ((*tokenizer)->Decode({pieces + 99}), "");
  }
}

TEST(Tokenizer, RefusesInvalidUtf8AndTakesAnythingElse) {
  const auto tokenizer = Trained();
  const auto invalid = tokenizer->Encode("ab\xff");
  EXPECT_EQ(invalid.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(invalid.status().message()), HasSubstr("byte 2"));
  std::string marks = "e";
  for (int i = 0; i < 100'000; ++i) marks += "\u0301";
  for (const std::string& text :
       {std::string("a\0b", 3), marks, std::string(1 << 20, ' '), std::string(1 << 20, 'x'),
        std::string("\ufffd\uffff\U0010ffff")}) {
    EXPECT_TRUE(tokenizer->Encode(text).ok());
  }
}

TEST(Tokenizer, AnswersTheSameToManyThreads) {
  const auto tokenizer = Trained();
  const std::vector<std::string> texts = Reviews();
  std::vector<std::vector<int32_t>> expected;
  for (const std::string& text : texts) expected.push_back(*tokenizer->Encode(text));
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round) {
        for (size_t i = 0; i < texts.size(); ++i) {
          if (*tokenizer->Encode(texts[i]) != expected[i]) ++wrong;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Tokenizer, NeverMakesControlIdsOfTexts) {
  const auto tokenizer = Trained();
  const int pieces = TrainedModel().pieces_size();
  for (const char* text :
       {"</s>", "<pad>", "<s>", "<unk>", "<extra_id_0>", "a</s>b <extra_id_99> c", "▁</s>▁",
        "＜/s＞", "<0x41>", "良い</s><pad><unk>"}) {
    const auto ids = tokenizer->Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_THAT(*ids, AllOf(Not(IsEmpty()), Each(AllOf(Ge(2), Lt(pieces))))) << text;
  }
}

TEST(Tokenizer, SaysThatAFileIsNotThere) {
  EXPECT_EQ(Tokenizer::Load(PathOf("nothing")).status().code(), absl::StatusCode::kNotFound);
}

// ---- The library itself as oracle ----

// What SentencePiece answers, by a program of its own.
std::vector<std::vector<int32_t>> AskOracle(const std::string& model,
                                            const std::vector<std::string>& texts) {
  const std::string model_path = PathOf("oracle.model"), texts_path = PathOf("oracle.texts"),
                    answers_path = PathOf("oracle.answers");
  std::string all;
  for (const std::string& text : texts) all.append(text).push_back('\0');
  EXPECT_TRUE(WriteFile(model_path, model).ok());
  EXPECT_TRUE(WriteFile(texts_path, all).ok());
  const std::string command = absl::StrCat(TASUKI_BINARY_DIR, "/sentencepiece_oracle ", model_path,
                                           " ", texts_path, " > ", answers_path);
  EXPECT_EQ(std::system(command.c_str()), 0);
  std::vector<std::vector<int32_t>> answers;
  std::ifstream file(answers_path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    answers.emplace_back(std::istream_iterator<int32_t>(words), std::istream_iterator<int32_t>());
  }
  for (const auto& path : {model_path, texts_path, answers_path}) std::filesystem::remove(path);
  return answers;
}

// Texts of pieces, spaces, characters that the normaliser changes and ones that nobody knows.
std::vector<std::string> RandomTexts(const Model& model, int count) {
  const std::vector<std::string> odd = {
      " ",     "  ",    "　",           "\n",   "▁",      "ﷺ",     "㌔", "Å",      "が",
      "½",     "①",     "Ａ",           "\x01", "\u200b", "鵺",    "😀",  "\ufeff", "</s>",
      "<pad>", "<unk>", "<extra_id_0>", "ｶﾞ",   "é",      "\u0301"};
  std::vector<std::string> texts = {"", " ", "▁", "a", "\x01"};
  std::mt19937 random(12);
  while (texts.size() < count) {
    std::string text;
    for (int n = random() % 30; n >= 0; --n) {
      const bool piece = random() % 4 != 0;
      text +=
          piece ? model.pieces(random() % model.pieces_size()).piece() : odd[random() % odd.size()];
    }
    texts.push_back(text);
  }
  return texts;
}

void ExpectTheOraclesAnswers(const Model& model) {
  const std::string bytes = model.SerializeAsString();
  const std::vector<std::string> texts = RandomTexts(model, 2000);
  const auto expected = AskOracle(bytes, texts);
  const auto tokenizer = LoadBytes(bytes);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ASSERT_EQ(expected.size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(*(*tokenizer)->Encode(texts[i]), expected[i]) << texts[i];
  }
}

TEST(Tokenizer, EncodesAsSentencePieceItself) { ExpectTheOraclesAnswers(TrainedModel()); }

TEST(Tokenizer, EncodesAsSentencePieceWithoutNormaliser) {
  Model model = TrainedModel();
  model.mutable_normalizer_spec()->clear_precompiled_charsmap();
  model.mutable_normalizer_spec()->set_add_dummy_prefix(false);
  model.mutable_normalizer_spec()->set_remove_extra_whitespaces(false);
  ExpectTheOraclesAnswers(model);
}

TEST(Tokenizer, EncodesAsSentencePieceWithBytesAndPiecesOfUsers) {
  Model model = TrainedModel();
  model.mutable_trainer_spec()->set_byte_fallback(true);
  for (int byte = 0; byte < 256; ++byte) {
    auto& piece = *model.add_pieces();
    piece.set_piece(absl::StrFormat("<0x%02X>", byte));
    piece.set_type(6);
  }
  for (const char* text : {"鵺😀", "</", "Ａ  ", "に"}) {
    auto& piece = *model.add_pieces();
    piece.set_piece(text);
    piece.set_type(4);
  }
  for (int id = 20; id < 60; id += 3) model.mutable_pieces(id)->set_type(5);
  ExpectTheOraclesAnswers(model);
  const auto tokenizer = LoadBytes(model.SerializeAsString());
  EXPECT_EQ((*tokenizer)->Decode(*(*tokenizer)->Encode("魑魅 b")), "魑魅 b");
}

// ---- Models made to harm ----

// A precompiled charsmap of these trie units and replacements.
std::string Charsmap(const std::vector<uint32_t>& units, const std::string& replacements) {
  const uint32_t size = units.size() * 4;
  std::string blob(4 + size, '\0');
  std::memcpy(blob.data(), &size, 4);
  if (size > 0) std::memcpy(blob.data() + 4, units.data(), size);
  return blob + replacements;
}

// Units of a trie whose root's children are its units 0 to 255, none of them matching.
std::vector<uint32_t> EmptyTrie() {
  std::vector<uint32_t> units(256, 0x80000000);
  return units;
}

struct BadModel {
  const char* name;
  std::function<void(Model&)> spoil;
  const char* says;
};

void SetCharsmap(Model& model, const std::string& blob) {
  model.mutable_normalizer_spec()->set_precompiled_charsmap(blob);
}

constexpr char kTable[] = "normaliser table is malformed";

const std::vector<BadModel>& BadModels() {
  static const auto& models = *new std::vector<BadModel>{
      {"HugePiece", [](Model& m) { m.mutable_pieces(9)->set_piece(std::string(500'000, 'a')); },
       "piece 9 has 500000 bytes, over 256"},
      {"PieceJustTooLong", [](Model& m) { m.mutable_pieces(9)->set_piece(std::string(257, 'a')); },
       "over 256"},
      {"NulPiece", [](Model& m) { m.mutable_pieces(9)->set_piece(std::string(1, '\0')); },
       "piece 9 holds a NUL"},
      {"EmptyPiece", [](Model& m) { m.mutable_pieces(9)->clear_piece(); }, "piece 9 is empty"},
      {"PieceNotUtf8", [](Model& m) { m.mutable_pieces(9)->set_piece("a\xff"); },
       "piece 9 is not UTF-8"},
      {"SamePieceTwice", [](Model& m) { m.mutable_pieces(9)->set_piece(m.pieces(10).piece()); },
       "a piece twice"},
      {"NanScore", [](Model& m) { m.mutable_pieces(9)->set_score(std::nanf("")); },
       "piece 9 has a score"},
      {"InfiniteScore",
       [](Model& m) { m.mutable_pieces(9)->set_score(std::numeric_limits<float>::infinity()); },
       "piece 9 has a score"},
      {"UnknownType", [](Model& m) { m.mutable_pieces(9)->set_type(77); }, "unknown type 77"},
      {"TwoUnknown", [](Model& m) { m.mutable_pieces(9)->set_type(2); }, "two unknown pieces"},
      {"NoUnknown", [](Model& m) { m.mutable_pieces(2)->set_type(1); }, "no unknown piece"},
      {"NoPad", [](Model& m) { m.mutable_pieces(0)->set_piece("<fill>"); }, "<pad>"},
      {"PadNotControl", [](Model& m) { m.mutable_pieces(0)->set_type(1); }, "<pad>"},
      {"NoEnd", [](Model& m) { m.mutable_pieces(1)->set_type(4); }, "</s>"},
      {"NoPieces", [](Model& m) { m.clear_pieces(); }, "0 pieces"},
      {"ControlPiecesOnly",
       [](Model& m) { m.mutable_pieces()->DeleteSubrange(3, m.pieces_size() - 3); },
       "no pieces but special ones"},
      {"TooManyPieces",
       [](Model& m) {
         for (int i = 0; i < 1'000'000; ++i) m.add_pieces()->set_piece(absl::StrCat("p", i));
       },
       "1000"},
      {"Bpe", [](Model& m) { m.mutable_trainer_spec()->set_model_type(2); }, "not a unigram model"},
      {"ByteWithoutFallback", [](Model& m) { m.mutable_pieces(9)->set_type(6); }, "is no byte"},
      {"TableOfThreeBytes", [](Model& m) { SetCharsmap(m, "abc"); }, kTable},
      {"TableWithoutTrie", [](Model& m) { SetCharsmap(m, Charsmap({}, std::string(1, '\0'))); },
       kTable},
      {"TrieBeyondBlob",
       [](Model& m) {
         std::string blob = m.normalizer_spec().precompiled_charsmap();
         const uint32_t size = blob.size() + 4;
         std::memcpy(blob.data(), &size, 4);
         SetCharsmap(m, blob);
       },
       kTable},
      {"WildRoot",
       [](Model& m) {
         std::string blob = m.normalizer_spec().precompiled_charsmap();
         std::memset(blob.data() + 4, 0xff, 4);
         SetCharsmap(m, blob);
       },
       kTable},
      {"WildChild",
       [](Model& m) {
         auto units = EmptyTrie();
         units['a'] = 'a' | (0x3FFFFF << 10);
         SetCharsmap(m, Charsmap(units, std::string(1, '\0')));
       },
       kTable},
      {"WildLeaf",
       [](Model& m) {
         auto units = EmptyTrie();
         units['a'] = 'a' | 0x100;  // has a leaf at its own place: value 'a' | 0x100
         SetCharsmap(m, Charsmap(units, std::string(1, '\0')));
       },
       kTable},
      {"ReplacementWithoutEnd", [](Model& m) { SetCharsmap(m, Charsmap(EmptyTrie(), "abc")); },
       kTable},
      {"ReplacementNotUtf8",
       [](Model& m) {
         auto units = EmptyTrie();
         units['a'] = 'a' | 0x100;
         SetCharsmap(m, Charsmap(units, std::string(500, '\xff') + std::string(1, '\0')));
       },
       kTable},
      {"HugeReplacement",
       [](Model& m) {
         auto units = EmptyTrie();
         units['a'] = 'a' | 0x100;
         SetCharsmap(m, Charsmap(units, std::string(5000, 'x') + std::string(1, '\0')));
       },
       kTable},
      {"HugeTable", [](Model& m) { SetCharsmap(m, std::string(17 << 20, '\0')); }, kTable},
      {"Denormaliser",
       [](Model& m) { m.mutable_denormalizer_spec()->set_precompiled_charsmap("abc"); }, "output"},
      {"SpacesAfterWords",
       [](Model& m) { m.mutable_trainer_spec()->set_treat_whitespace_as_suffix(true); }, "spaces"},
      {"FewBytes", [](Model& m) { m.mutable_trainer_spec()->set_byte_fallback(true); }, "256"},
  };
  return models;
}

TEST(Tokenizer, RefusesModelsMadeToHarm) {
  for (const BadModel& bad : BadModels()) {
    Model model = TrainedModel();
    bad.spoil(model);
    const auto tokenizer = LoadBytes(model.SerializeAsString());
    ASSERT_FALSE(tokenizer.ok()) << bad.name;
    EXPECT_EQ(ReasonOf(tokenizer.status()), v1::MODEL_INVALID) << bad.name;
    EXPECT_THAT(std::string(tokenizer.status().message()),
                AllOf(HasSubstr("crafted.model: "), HasSubstr(bad.says)))
        << bad.name;
  }
}

TEST(Tokenizer, RefusesFilesThatAreNoModel) {
  for (const std::string& bytes :
       {std::string(), std::string("hello"), std::string(1000, '\xff'), std::string(1000, '\0')}) {
    EXPECT_EQ(ReasonOf(LoadBytes(bytes).status()), v1::MODEL_INVALID);
  }
  const std::string whole = *ReadFile(TrainedPath());
  EXPECT_EQ(ReasonOf(LoadBytes(whole.substr(0, whole.size() / 2)).status()), v1::MODEL_INVALID);
}

TEST(Tokenizer, SurvivesBitsThatFlip) {
  // Whatever is accepted must also encode.
  const std::string whole = *ReadFile(TrainedPath());
  uint64_t random = 12;
  for (int i = 0; i < 100; ++i) {
    std::string bytes = whole;
    random = random * 6364136223846793005ULL + 1442695040888963407ULL;
    bytes[(random >> 20) % bytes.size()] ^= 1 << (random >> 60);
    const auto tokenizer = LoadBytes(bytes);
    if (!tokenizer.ok()) continue;
    for (const char* text : {"映画はとても良い。", "ﷺ ㌔ ½ Å が"}) {
      EXPECT_TRUE((*tokenizer)->Encode(text).ok());
    }
  }
}

// ---- Training ----

TEST(TrainTokenizer, GivesTheSameBytesForTheSameTexts) {
  const std::string path = PathOf("again");
  ASSERT_TRUE(TrainTokenizer(Reviews(), Options(), path).ok());
  EXPECT_EQ(*ReadFile(path), *ReadFile(TrainedPath()));
  std::filesystem::remove(path);
}

TEST(TrainTokenizer, CoversRequiredTextsThatTheTextsDoNotHave) {
  TokenizerTraining options;
  options.vocabulary_size = 100;
  // Q in full width: it is the normalised character that must be there.
  options.required_texts = {"Ｑ鵺", "ok"};
  const std::string path = PathOf("required");
  ASSERT_TRUE(TrainTokenizer({"あいうえお", "かきくけこ"}, options, path).ok());
  const auto tokenizer = *Tokenizer::Load(path);
  EXPECT_THAT(*tokenizer->Encode("Q鵺"), Not(Contains(tokenizer->unk_id())));
  EXPECT_THAT(*tokenizer->Encode("魑魅"), Contains(tokenizer->unk_id()));
  std::filesystem::remove(path);
}

TEST(TrainTokenizer, MakesASmallerModelOfFewTexts) {
  const std::string path = PathOf("few");
  for (const char* text : {"a", "あ", "aa", "ab ab", "0"}) {
    const absl::Status status = TrainTokenizer({text}, TokenizerTraining{}, path);
    ASSERT_TRUE(status.ok()) << text << ": " << status;
    EXPECT_LT((*Tokenizer::Load(path))->size(), 120);
  }
  std::filesystem::remove(path);
}

TEST(TrainTokenizer, RefusesTextsWithoutCharactersAndAVocabularyTooSmall) {
  const std::string path = PathOf("refused");
  for (const std::vector<std::string>& texts :
       std::vector<std::vector<std::string>>{{}, {""}, {" ", "　\n"}, {"\x01\x02"}}) {
    const absl::Status status = TrainTokenizer(texts, TokenizerTraining{}, path);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("no tokenizer can be made"));
  }
  TokenizerTraining options;
  options.vocabulary_size = 10;
  const absl::Status status = TrainTokenizer(Reviews(), options, path);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("Vocabulary size is smaller"));
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(TrainTokenizer, DoesNotBlameTheTextsForTheDeathOfItsProgram) {
  const std::string path = PathOf("death");
  // A model has more bytes than that: the program is ended by SIGXFSZ.
  rlimit usual;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &usual), 0);
  rlimit small = usual;
  small.rlim_cur = 100'000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status died = TrainTokenizer({"あいう", "ab"}, TokenizerTraining{}, path);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &usual), 0);
  EXPECT_EQ(died.code(), absl::StatusCode::kInternal) << died;
  EXPECT_EQ(ReasonOf(died), v1::ERROR_REASON_UNSPECIFIED) << "another attempt may be luckier";
  EXPECT_THAT(std::string(died.message()), HasSubstr("ended by signal 25"));

  absl::Status killed;
  std::atomic<pid_t> thread = 0;
  std::atomic<bool> done = false;
  std::thread training([&] {
    thread = gettid();
    killed = TrainTokenizer(Reviews(), Options(), path);
    done = true;
  });
  while (!done) {
    std::ifstream children(absl::StrCat("/proc/self/task/", thread.load(), "/children"));
    for (pid_t child; children >> child;) kill(child, SIGKILL);
  }
  training.join();
  EXPECT_EQ(killed.code(), absl::StatusCode::kResourceExhausted) << killed;
  EXPECT_EQ(ReasonOf(killed), v1::OUT_OF_MEMORY);
}

TEST(TrainTokenizer, CutsLongTextsBetweenCharacters) {
  std::string text;
  for (int i = 0; i < 5000; ++i) text += "あいう";
  const std::string path = PathOf("long");
  const absl::Status status = TrainTokenizer({text}, TokenizerTraining{}, path);
  ASSERT_TRUE(status.ok()) << status;
  const auto tokenizer = *Tokenizer::Load(path);
  EXPECT_THAT(*tokenizer->Encode("あいうあいう"), Not(Contains(tokenizer->unk_id())));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace tasuki
