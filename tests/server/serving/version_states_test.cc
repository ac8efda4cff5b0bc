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
    ASSERT_EQ(states_.NextToLoad()->name.ToString(), name.ToString());
    states_.EndLoad(name, Served(name));
  }
  // What is answered at once.
  absl::StatusOr<AcquiredModel> Acquire(const std::string& name) {
    absl::StatusOr<AcquiredModel> answer = absl::UnknownError("it waits");
    states_.Acquire(name, [&answer](auto model) { answer = std::move(model); });
    return answer;
  }
  void SetAlias(const VersionName& version, int shadow = 0) {
    v1::ModelAlias alias;
    alias.set_name("models/m/aliases/a");
    alias.set_model_version(version.ToString());
    if (shadow > 0) alias.set_shadow_model_version(VersionName{"models/m", shadow}.ToString());
    states_.SetAlias(alias);
  }
  std::string Answering(const std::string& name) {
    const auto model = Acquire(name);
    return model.ok() ? model->model->name : std::string(model.status().message());
  }
  v1::ErrorReason ReasonFor(const std::string& name) { return ReasonOf(Acquire(name).status()); }
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
  EXPECT_THAT(Answering("models/m"), HasSubstr("`tasuki model load m@VERSION`"));
  EXPECT_THAT(Answering("models/m/versions/1"), HasSubstr("`tasuki model load m@1`"));
  EXPECT_THAT(Answering("models/m/aliases/a"), HasSubstr("`tasuki alias list m`"));
  states_.BeginLoad(one_);
  EXPECT_EQ(ReasonFor("models/m"), v1::MODEL_LOADING);
  EXPECT_TRUE(absl::IsUnavailable(Acquire("models/m").status()));
  states_.EndLoad(one_, absl::DataLossError("config.json changed."));
  EXPECT_TRUE(absl::IsFailedPrecondition(Acquire("models/m").status()));
  EXPECT_THAT(Answering("models/m"), HasSubstr("config.json changed."));
  Learn(two_, /*tasks=*/false);
  EXPECT_THAT(Answering("models/m/versions/2"), HasSubstr("base model without a task"));
}

// It would keep in memory what may have to make room for what it waits for.
TEST_F(VersionStatesTest, ARequestThatWaitsKeepsNoShadowInMemory) {
  for (const auto& name : {one_, two_}) Learn(name);
  Load(one_);
  Load(two_);
  SetAlias(one_, 2);
  EXPECT_EQ(states_.EvictLeastRecentlyUsed()->first.version, 1);
  absl::StatusOr<AcquiredModel> answer = absl::UnknownError("it waits");
  states_.Acquire("models/m/aliases/a", [&answer](auto model) { answer = std::move(model); });
  EXPECT_TRUE(absl::IsUnknown(answer.status()));
  auto shadow = states_.EvictLeastRecentlyUsed();
  ASSERT_EQ(shadow->first.version, 2);
  EXPECT_EQ(shadow->second.model.use_count(), 1);
  states_.EndLoad(states_.NextToLoad()->name, Served(one_));
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->model->name, "models/m/versions/1");
  EXPECT_EQ(answer->shadow, nullptr);
}

TEST_F(VersionStatesTest, LookingLoadsNothingAndIsNoUse) {
  for (const auto& name : {one_, two_}) Learn(name);
  EXPECT_EQ(ReasonOf(states_.Look("models/m").status()), v1::MODEL_NOT_LOADED);
  Load(one_);
  Load(two_);
  EXPECT_EQ(states_.Look("models/m/versions/1")->model->name, "models/m/versions/1");
  EXPECT_EQ(states_.EvictLeastRecentlyUsed()->first.version, 1) << "it was only looked at";
  const auto looked = states_.Look("models/m/versions/1");
  ASSERT_TRUE(looked.ok()) << looked.status();
  EXPECT_EQ(looked->model, nullptr);
  EXPECT_EQ(StateOf(one_).state(), v1::ModelVersion::STANDBY);
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
  EXPECT_EQ(states_.NextToLoad()->name.version, 2) << "version 1 was queued once";
}

TEST_F(VersionStatesTest, WaitsForTheEndOfALoad) {
  Learn(one_);
  states_.BeginLoad(one_);
  EXPECT_TRUE(absl::IsDeadlineExceeded(states_.AwaitLoaded(one_, absl::Now())));
  std::thread loader([this] { states_.EndLoad(states_.NextToLoad()->name, Served(one_)); });
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

TEST_F(VersionStatesTest, AnAliasAnswersByTheVersionThatItNamesAndItsShadow) {
  for (const auto& name : {one_, two_}) Learn(name);
  EXPECT_EQ(ReasonFor("models/m/aliases/a"), v1::RESOURCE_NOT_FOUND);
  Load(one_);
  SetAlias(one_);
  EXPECT_EQ(Answering("models/m/aliases/a"), "models/m/versions/1");
  Load(two_);
  EXPECT_EQ(Answering("models/m/aliases/a"), "models/m/versions/1") << "whatever is newest";
  SetAlias(two_, /*shadow=*/1);
  const auto model = Acquire("models/m/aliases/a");
  ASSERT_TRUE(model.ok());
  EXPECT_EQ(model->model->name, "models/m/versions/2");
  EXPECT_EQ(model->shadow->name, "models/m/versions/1");
  EXPECT_EQ(Acquire("models/m/versions/2")->shadow, nullptr);
  EXPECT_THAT(StateOf(one_).aliases(), ElementsAre("models/m/aliases/a"));
  EXPECT_THAT(StateOf(two_).aliases(), ElementsAre("models/m/aliases/a"));
  states_.RemoveAlias("models/m/aliases/a");
  EXPECT_EQ(ReasonFor("models/m/aliases/a"), v1::RESOURCE_NOT_FOUND);
  EXPECT_TRUE(StateOf(one_).aliases().empty());
}

TEST_F(VersionStatesTest, TheOneThatWasAskedLongestAgoMakesRoomAndComesBackForARequest) {
  for (const auto& name : {one_, two_}) Learn(name);
  Load(one_);
  Load(two_);
  EXPECT_EQ(Answering("models/m/versions/1"), "models/m/versions/1");
  auto evicted = states_.EvictLeastRecentlyUsed();
  ASSERT_TRUE(evicted.has_value());
  EXPECT_EQ(evicted->first.ToString(), two_.ToString());
  EXPECT_EQ(StateOf(two_).state(), v1::ModelVersion::STANDBY);
  evicted.reset();

  std::vector<std::string> answers;
  for (int i = 0; i < 2; ++i) {
    states_.Acquire("models/m", [&](auto model) {
      answers.push_back(model.ok() ? model->model->name : model.status().ToString());
    });
  }
  EXPECT_THAT(answers, testing::IsEmpty()) << "it is the newest in service, if not in memory";
  EXPECT_EQ(StateOf(two_).state(), v1::ModelVersion::LOADING);
  const auto load = states_.NextToLoad();
  EXPECT_EQ(load->name.ToString(), two_.ToString());
  EXPECT_EQ(load->cause, VersionStates::Cause::kRequest);
  EXPECT_FALSE(states_.Defer(two_)) << "somebody waits";
  states_.EndLoad(two_, Served(two_));
  EXPECT_THAT(answers, ElementsAre("models/m/versions/2", "models/m/versions/2"));

  EXPECT_EQ(states_.EvictLeastRecentlyUsed()->first.ToString(), one_.ToString());
  EXPECT_EQ(states_.EvictLeastRecentlyUsed()->first.ToString(), two_.ToString());
  EXPECT_FALSE(states_.EvictLeastRecentlyUsed().has_value());
  EXPECT_EQ(states_.Withdraw(one_).model, nullptr);
  EXPECT_EQ(StateOf(one_).state(), v1::ModelVersion::UNLOADED);
  EXPECT_EQ(ReasonFor("models/m/versions/1"), v1::MODEL_NOT_LOADED) << "no request brings it back";
}

TEST_F(VersionStatesTest, RequestsThatWaitForALoadHearOfItsFailureAndOfTheEnd) {
  for (const auto& name : {one_, two_}) Learn(name);
  Load(one_);
  Load(two_);
  states_.EvictLeastRecentlyUsed();
  states_.EvictLeastRecentlyUsed();
  absl::Status failed, drained;
  states_.Acquire("models/m/versions/1", [&](auto model) { failed = model.status(); });
  states_.Acquire("models/m/versions/2", [&](auto model) { drained = model.status(); });
  states_.EndLoad(states_.NextToLoad()->name, absl::DataLossError("config.json changed."));
  EXPECT_EQ(ReasonOf(failed), v1::MODEL_NOT_LOADED);
  EXPECT_THAT(std::string(failed.message()), HasSubstr("config.json changed."));
  EXPECT_TRUE(drained.ok());
  states_.Stop();
  EXPECT_EQ(ReasonOf(drained), v1::DRAINING);
}

TEST_F(VersionStatesTest, WhatIsAskedForIsLoadedBeforeWhatTheStartWants) {
  for (const auto& name : {one_, two_, ten_}) Learn(name);
  ASSERT_TRUE(states_.BeginLoad(one_, VersionStates::Cause::kAtStart));
  ASSERT_TRUE(states_.BeginLoad(two_, VersionStates::Cause::kAtStart));
  ASSERT_TRUE(states_.BeginLoad(ten_));
  EXPECT_EQ(states_.NextToLoad()->name.ToString(), ten_.ToString());
  EXPECT_EQ(states_.NextToLoad()->name.ToString(), one_.ToString());
  EXPECT_TRUE(states_.Defer(one_));
  EXPECT_EQ(states_.NextToLoad()->name.ToString(), two_.ToString());
  ASSERT_TRUE(states_.BeginLoad(two_));
  EXPECT_FALSE(states_.Defer(two_)) << "it was asked for while the start wanted it";
  EXPECT_EQ(StateOf(one_).state(), v1::ModelVersion::STANDBY);
}

}  // namespace
}  // namespace tasuki
