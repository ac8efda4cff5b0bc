#include "server/serving/version_states.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "model/errors/errors.h"
#include "tests/testing/fake_classifier.h"

namespace tasuki {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class VersionStatesTest : public testing::Test {
 protected:
  void Learn(const VersionName& name, bool tasks = true) {
    v1::ModelVersion version;
    version.set_name(name.ToString());
    if (tasks) *version.add_tasks() = YesNoTask("t");
    states_.Learn(version);
  }
  ServedVersion Served(const VersionName& name) {
    return {FakeModel(name.ToString(), std::make_shared<ScoreLog>(), metrics_),
            std::make_shared<absl::Notification>()};
  }
  void Load(const VersionName& name) {
    ASSERT_TRUE(states_.BeginLoad(name));
    ASSERT_EQ(states_.NextToLoad()->ToString(), name.ToString());
    states_.EndLoad(name, Served(name));
  }
  std::string Answering(const std::string& name) {
    const auto model = states_.Acquire(name);
    return model.ok() ? (*model)->name : std::string(model.status().message());
  }
  v1::ErrorReason ReasonFor(const std::string& name) {
    return ReasonOf(states_.Acquire(name).status());
  }
  v1::ModelVersion StateOf(const VersionName& name) {
    v1::ModelVersion version;
    version.set_name(name.ToString());
    states_.FillIn(version);
    return version;
  }

  Metrics metrics_;
  VersionStates states_;
  const VersionName one_{"models/m", 1}, two_{"models/m", 2}, ten_{"models/m", 10};
};

TEST_F(VersionStatesTest, AModelAnswersByItsNewestLoadedVersion) {
  for (const auto& name : {one_, two_, ten_}) Learn(name);
  Load(one_);
  EXPECT_EQ(Answering("models/m"), "models/m/versions/1");
  Load(two_);
  EXPECT_EQ(Answering("models/m"), "models/m/versions/2");
  Load(ten_);
  EXPECT_EQ(Answering("models/m"), "models/m/versions/10") << "by number, not by letters";
  EXPECT_EQ(Answering("models/m/versions/1"), "models/m/versions/1");
  EXPECT_NE(states_.Withdraw(ten_).model, nullptr);
  EXPECT_EQ(Answering("models/m"), "models/m/versions/2");
  EXPECT_THAT(states_.Loaded(), ElementsAre("models/m/versions/1", "models/m/versions/2"));
}

TEST_F(VersionStatesTest, SaysWhyAVersionDoesNotAnswer) {
  EXPECT_EQ(ReasonFor("models/m"), v1::RESOURCE_NOT_FOUND);
  Learn(one_);
  EXPECT_EQ(ReasonFor("models/m/versions/2"), v1::RESOURCE_NOT_FOUND);
  EXPECT_EQ(ReasonFor("models/m"), v1::MODEL_NOT_LOADED);
  EXPECT_THAT(Answering("models/m"), HasSubstr("`tasuki model load m@1`"));
  states_.BeginLoad(one_);
  EXPECT_EQ(ReasonFor("models/m"), v1::MODEL_LOADING);
  EXPECT_TRUE(absl::IsUnavailable(states_.Acquire("models/m").status()));
  states_.EndLoad(one_, absl::DataLossError("config.json changed."));
  EXPECT_TRUE(absl::IsFailedPrecondition(states_.Acquire("models/m").status()));
  EXPECT_THAT(Answering("models/m"), HasSubstr("config.json changed."));
  Learn(two_, /*tasks=*/false);
  EXPECT_THAT(Answering("models/m/versions/2"), HasSubstr("base model without a task"));
}

TEST_F(VersionStatesTest, ReportsStateAndReason) {
  Learn(one_);
  EXPECT_EQ(StateOf(one_).state(), v1::ModelVersion::UNLOADED);
  states_.BeginLoad(one_);
  EXPECT_EQ(StateOf(one_).state(), v1::ModelVersion::LOADING);
  states_.EndLoad(one_, absl::DataLossError("config.json changed."));
  EXPECT_EQ(StateOf(one_).state(), v1::ModelVersion::FAILED);
  EXPECT_EQ(StateOf(one_).state_reason(), "config.json changed.");
  Load(one_);
  EXPECT_EQ(StateOf(one_).state(), v1::ModelVersion::LOADED);
  EXPECT_EQ(StateOf(one_).state_reason(), "");
  states_.Withdraw(one_);
  EXPECT_EQ(StateOf(one_).state(), v1::ModelVersion::UNLOADED);
}

TEST_F(VersionStatesTest, LoadsOnceHoweverOftenItIsAsked) {
  Learn(one_);
  EXPECT_TRUE(states_.BeginLoad(one_));
  EXPECT_TRUE(states_.BeginLoad(one_));
  EXPECT_FALSE(states_.BeginLoad(two_)) << "unknown";
  ASSERT_TRUE(states_.NextToLoad().has_value());
  states_.EndLoad(one_, Served(one_));
  EXPECT_TRUE(states_.BeginLoad(one_));
  Learn(two_);
  states_.BeginLoad(two_);
  EXPECT_EQ(states_.NextToLoad()->version, 2) << "version 1 was queued once";
}

TEST_F(VersionStatesTest, WaitsForTheEndOfALoad) {
  Learn(one_);
  states_.BeginLoad(one_);
  EXPECT_TRUE(absl::IsDeadlineExceeded(states_.AwaitLoaded(one_, absl::Now())));
  std::thread loader([this] { states_.EndLoad(*states_.NextToLoad(), Served(one_)); });
  EXPECT_TRUE(states_.AwaitLoaded(one_, absl::InfiniteFuture()).ok());
  loader.join();
  EXPECT_TRUE(absl::IsNotFound(states_.AwaitLoaded(two_, absl::InfiniteFuture())));
}

TEST_F(VersionStatesTest, StopEndsAllWaiting) {
  Learn(one_);
  Learn(two_);
  Load(one_);
  states_.BeginLoad(two_);
  absl::Status waited;
  std::thread waiter([&] { waited = states_.AwaitLoaded(two_, absl::InfiniteFuture()); });
  states_.Stop();
  waiter.join();
  EXPECT_EQ(ReasonOf(waited), v1::DRAINING);
  EXPECT_FALSE(states_.NextToLoad().has_value());
  EXPECT_EQ(Answering("models/m"), "models/m/versions/1") << "what is loaded goes on";
}

TEST_F(VersionStatesTest, AVersionDeletedWhileItLoadsStaysAway) {
  Learn(one_);
  states_.BeginLoad(one_);
  states_.Forget(one_);
  states_.EndLoad(one_, Served(one_));
  EXPECT_EQ(ReasonFor("models/m"), v1::RESOURCE_NOT_FOUND);
}

}  // namespace
}  // namespace tasuki
