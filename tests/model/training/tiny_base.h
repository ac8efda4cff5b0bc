// What the tests of this room train with: a folder, sentences of a small world, and a T5 of one
// layer.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "model/files/durable.h"
#include "model/t5/config.h"
#include "model/t5/weights.h"
#include "model/text/examples.h"
#include "model/text/tokenizer.h"
#include "model/training/result.h"
#include "model/training/training.h"

namespace tasuki {

// A folder that goes with the test.
class Folder {
 public:
  Folder() {
    std::string name = ::testing::TempDir() + "training.XXXXXX";
    path_ = mkdtemp(name.data());
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Hears nothing.
class Silence : public TrainingObserver {
 public:
  void OnProgress(const v1::Progress&) override {}
  void OnEvaluation(const v1::Evaluation&) override {}
  void OnCheckpoint(int64_t, bool, absl::Duration) override {}
  void OnMessage(v1::TrainingJobEvent::Message::Severity, const std::string&) override {}
};

// 128 opinions, every second one good.
inline std::vector<v1::Example> Opinions() {
  const std::vector<std::string> things = {"soup", "bread", "room", "river walk",
                                           "lamp", "chair", "tea",  "garden"};
  const std::vector<std::string> times = {"today", "last winter", "at noon", "after the rain"};
  const std::vector<std::string> words = {"lovely", "awful", "bright", "broken"};
  std::vector<v1::Example> rows;
  for (const std::string& thing : things) {
    for (const std::string& time : times) {
      for (size_t i = 0; i < words.size(); ++i) {
        v1::Example& row = rows.emplace_back();
        row.set_text(absl::StrCat("the ", thing, " was ", words[i], " ", time));
        row.set_label(i % 2 == 0 ? "yes" : "no");
      }
    }
  }
  return rows;
}

inline void WriteExamples(const std::string& path, const std::vector<v1::Example>& rows) {
  std::string bytes;
  for (const v1::Example& row : rows) bytes += CanonicalLine(row, /*labelled=*/true);
  ASSERT_TRUE(WriteFile(path, bytes).ok());
}

inline T5Config TinyConfig(const Tokenizer& tokenizer) {
  T5Config config;
  config.vocab_size = tokenizer.size();
  config.d_model = 32;
  config.d_kv = 16;
  config.d_ff = 64;
  config.num_layers = config.num_decoder_layers = 1;
  config.num_heads = 2;
  return config;
}

// A tokenizer of the opinions.
inline std::unique_ptr<Tokenizer> MakeTokenizer(const std::string& directory) {
  std::vector<std::string> texts;
  for (const v1::Example& row : Opinions()) texts.push_back(row.text());
  TokenizerTraining training;
  training.vocabulary_size = 60;
  training.required_texts = {"good", "bad"};
  EXPECT_TRUE(MakeDirectories(directory).ok());
  const absl::Status trained = TrainTokenizer(texts, training, directory + "/spiece.model");
  EXPECT_TRUE(trained.ok()) << trained;
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      Tokenizer::Load(directory + "/spiece.model");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

// A base model to start from, with new weights.
inline void MakeBase(const Folder& folder, const std::string& directory) {
  const std::unique_ptr<Tokenizer> tokenizer = MakeTokenizer(folder / "tokenizer");
  const T5Config config = TinyConfig(*tokenizer);
  const absl::Status written =
      WriteResult(directory, T5(config, InitialWeights(config, 1)), folder / "tokenizer", {});
  ASSERT_TRUE(written.ok()) << written;
}

// Task "mood": "yes" rows are good, "no" rows are bad.
inline v1::Task MoodTask() {
  v1::Task task;
  task.set_name("mood");
  for (const auto& [name, value] :
       std::vector<std::pair<std::string, std::string>>{{"good", "yes"}, {"bad", "no"}}) {
    v1::Label& label = *task.add_labels();
    label.set_name(name);
    label.set_target_text(name);
    label.add_values(value);
  }
  task.set_prefix("");
  task.set_weight(1);
  task.set_train_dataset("datasets/train");
  return task;
}

}  // namespace tasuki
