#include "model/training/checkpoint.h"

#include <ATen/ATen.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "tests/model/training/tiny_base.h"

namespace tasuki {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class CheckpointsTest : public ::testing::Test {
 protected:
  void Save(int64_t step, int64_t best_step) {
    internal::TrainingState state;
    state.set_best_step(best_step);
    state.set_threads(2);
    const absl::Status saved = checkpoints_.Save(step, Tensors(step), Tensors(-step), state);
    ASSERT_TRUE(saved.ok()) << saved;
  }

  static WeightMap Tensors(int64_t value) {
    return {{"a", at::full({2, 3}, static_cast<double>(value))},
            {"b", at::full({}, static_cast<double>(value))}};
  }

  std::optional<internal::CheckpointManifest> Newest(const Checkpoints& checkpoints) {
    auto newest = checkpoints.Newest([&](const std::string& text) { told_.push_back(text); });
    EXPECT_TRUE(newest.ok()) << newest.status();
    return newest.ok() ? *newest : std::nullopt;
  }

  void Spoil(const std::string& file) {
    std::string bytes = *ReadFile(folder_ / file);
    bytes[bytes.size() / 2] ^= 1;
    ASSERT_TRUE(WriteFile(folder_ / file, bytes).ok());
  }

  std::vector<std::string> Names() { return *ListDirectory(folder_ / "."); }

  Folder folder_;
  Checkpoints checkpoints_{folder_ / ".", "work"};
  std::vector<std::string> told_;
};

TEST_F(CheckpointsTest, StartWithNone) {
  EXPECT_FALSE(Newest(checkpoints_).has_value());
  EXPECT_THAT(told_, IsEmpty());
}

TEST_F(CheckpointsTest, GiveBackTheNewest) {
  Save(9, 0);
  Save(10, 0);
  const auto newest = Newest(checkpoints_);
  ASSERT_TRUE(newest.has_value());
  EXPECT_EQ(newest->step(), 10);
  EXPECT_EQ(newest->state().threads(), 2);
  const WeightMap state = Tensors(0);
  ASSERT_TRUE(checkpoints_.ReadOptimizer(10, state).ok());
  EXPECT_TRUE(at::equal(state.at("a"), Tensors(-10).at("a")));
  EXPECT_TRUE(at::equal(state.at("b"), Tensors(-10).at("b")));
}

TEST_F(CheckpointsTest, KeepTheNewestTwoAndTheBestOfEach) {
  Save(10, 10);
  Save(20, 20);
  Save(30, 20);
  Save(40, 40);
  EXPECT_THAT(Names(), ElementsAre("step-20", "step-30", "step-40"));
  Save(50, 40);
  EXPECT_THAT(Names(), ElementsAre("step-40", "step-50"));
}

TEST_F(CheckpointsTest, PassOverABrokenOneAndSaySo) {
  Save(10, 0);
  Save(20, 0);
  for (const std::string file : {"model.safetensors", "optimizer.safetensors"}) {
    Save(30, 0);
    Save(20, 0);
    Spoil("step-30/" + file);
    told_.clear();
    EXPECT_EQ(Newest(checkpoints_)->step(), 20);
    EXPECT_THAT(told_, ElementsAre(AllOf(HasSubstr("step-30"), HasSubstr(file),
                                         HasSubstr("is kept as " + folder_ / "./damaged"))));
  }
  ASSERT_TRUE(RemoveAll(folder_ / "step-20/checkpoint.json").ok());
  EXPECT_FALSE(Newest(checkpoints_).has_value());
}

TEST_F(CheckpointsTest, KeepABrokenOneAsideAndAtMostOne) {
  Save(10, 0);
  Save(20, 0);
  Save(30, 0);
  Spoil("step-30/model.safetensors");
  const std::string broken = *ReadFile(folder_ / "step-30/model.safetensors");
  EXPECT_EQ(Newest(checkpoints_)->step(), 20);
  EXPECT_THAT(Names(), ElementsAre("damaged", "step-20"));
  EXPECT_EQ(*ReadFile(folder_ / "damaged/model.safetensors"), broken);

  told_.clear();
  EXPECT_EQ(Newest(checkpoints_)->step(), 20);
  EXPECT_THAT(told_, IsEmpty()) << "it is not looked at again";
  Save(30, 0);
  Save(40, 0);
  EXPECT_THAT(Names(), ElementsAre("damaged", "step-30", "step-40"));
  Spoil("step-40/optimizer.safetensors");
  EXPECT_EQ(Newest(checkpoints_)->step(), 30);
  EXPECT_THAT(Names(), ElementsAre("damaged", "step-30"));
  internal::CheckpointManifest manifest;
  ASSERT_TRUE(ReadJson(folder_ / "damaged/checkpoint.json", manifest).ok());
  EXPECT_EQ(manifest.step(), 40) << "in the place of the earlier one";
}

TEST_F(CheckpointsTest, PassOverOneWhoseBestIsBroken) {
  Save(10, 10);
  Save(20, 20);
  Save(30, 20);
  Save(40, 40);
  Spoil("step-20/model.safetensors");
  EXPECT_EQ(Newest(checkpoints_)->step(), 40);
  ASSERT_TRUE(RemoveAll(folder_ / "step-40").ok());
  EXPECT_FALSE(Newest(checkpoints_).has_value());
}

TEST_F(CheckpointsTest, RefuseThoseOfAnotherJob) {
  Save(10, 0);
  EXPECT_FALSE(Newest(Checkpoints(folder_ / ".", "other work")).has_value());
  EXPECT_THAT(told_, ElementsAre(HasSubstr("another job")));
}

TEST_F(CheckpointsTest, RefuseANewerFormatAndNameBoth) {
  Save(10, 0);
  internal::CheckpointManifest manifest;
  const std::string path = folder_ / "step-10/checkpoint.json";
  ASSERT_TRUE(ReadJson(path, manifest).ok());
  manifest.set_format_version(7);
  ASSERT_TRUE(WriteJson(path, manifest).ok());
  const absl::Status status = checkpoints_.Newest([](const std::string&) {}).status();
  EXPECT_EQ(ReasonOf(status), v1::FILE_CHANGED);
  EXPECT_THAT(std::string(status.message()), HasSubstr("format version 7"));
}

TEST_F(CheckpointsTest, RefuseANewerFormatWithFieldsThatAreNotKnownAndLeaveItThere) {
  Save(10, 10);
  Save(20, 10);
  for (const std::string name : {"step-20", "step-10"}) {  // the newest, and its best
    const std::string path = folder_ / (name + "/checkpoint.json");
    const std::string before = *ReadFile(path);
    ASSERT_TRUE(WriteFile(path, R"({"format_version": 7, "new": {"a": 1}})").ok());
    const absl::Status status = checkpoints_.Newest([](const std::string&) {}).status();
    EXPECT_EQ(ReasonOf(status), v1::FILE_CHANGED);
    EXPECT_THAT(std::string(status.message()), HasSubstr("format version 7"));
    EXPECT_THAT(Names(), ElementsAre("step-10", "step-20"));
    ASSERT_TRUE(WriteFile(path, before).ok());
  }
}

TEST_F(CheckpointsTest, AreThereAtEveryMomentWhileTheSameStepIsSavedAgain) {
  Save(10, 0);
  std::atomic<bool> done = false;
  int missing = 0;
  std::thread watcher([&] {
    while (!done) missing += !std::filesystem::exists(folder_ / "step-10");
  });
  for (int i = 0; i < 20; ++i) Save(10, 10);
  done = true;
  watcher.join();
  EXPECT_EQ(missing, 0);
  EXPECT_EQ(Newest(checkpoints_)->state().best_step(), 10) << "the first had none";
  EXPECT_THAT(Names(), ElementsAre("step-10"));
}

TEST_F(CheckpointsTest, RefuseTheStateOfAnotherOptimizer) {
  Save(10, 0);
  const absl::Status status =
      checkpoints_.ReadOptimizer(10, {{"a", at::zeros({2, 3})}, {"c", at::zeros({})}});
  EXPECT_EQ(ReasonOf(status), v1::FILE_CHANGED);
}

}  // namespace
}  // namespace tasuki
