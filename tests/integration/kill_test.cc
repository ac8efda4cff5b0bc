// What the death of a trainer or of the server leaves: jobs go on from their checkpoints and end
// with the weights they would have had, and answers do not stop.

#include <gmock/gmock.h>
#include <signal.h>

#include <atomic>
#include <thread>

#include "tests/integration/world.h"

namespace tasuki {
namespace {

using testing::Contains;
using testing::HasSubstr;

constexpr int64_t kKillAfterStep = 100;
constexpr int64_t kInterval = 20;  // between the checkpoints of LongJob

bool IsLateCheckpoint(const v1::TrainingJobEvent& event) {
  return event.has_checkpoint_written() && event.checkpoint_written().step() >= kKillAfterStep;
}

// SHA-256 of the weights of a version.
std::string WeightsOf(Tasukid& tasukid, const std::string& version) {
  grpc::ClientContext context;
  v1::GetModelVersionRequest request;
  request.set_name(version);
  v1::ModelVersion found;
  EXPECT_TRUE(tasukid.models->GetModelVersion(&context, request, &found).ok()) << version;
  for (const auto& file : found.files()) {
    if (file.name() == "model.safetensors") return file.sha256();
  }
  return "no weights";
}

// The weights of a LongJob that nobody disturbed; trained once.
std::string UndisturbedWeights(Tasukid& tasukid) {
  static const std::string weights = [&] {
    const auto job = tasukid.AwaitEnd(tasukid.Submit(LongJob("models/undisturbed")));
    return WeightsOf(tasukid, job.model_version());
  }();
  return weights;
}

// Checks that the job went on at attempt 2 where its newest checkpoint was, and ended well.
void ExpectResumed(Tasukid& tasukid, const std::string& name) {
  const v1::TrainingJob job = tasukid.AwaitEnd(name);
  ASSERT_EQ(job.state(), v1::TrainingJob::SUCCEEDED) << job.error().message();
  EXPECT_EQ(job.attempt(), 2);
  int64_t last_before = 0, first_after = 0;
  tasukid.Watch(name, 1, [&](const v1::TrainingJobEvent& event) {
    if (!event.has_checkpoint_written()) return false;
    const int64_t step = event.checkpoint_written().step();
    if (event.attempt() == 1) last_before = step;
    if (event.attempt() == 2 && first_after == 0) first_after = step;
    return false;
  });
  EXPECT_GE(last_before, kKillAfterStep);
  EXPECT_GT(first_after, last_before);
  // A checkpoint may have got its name without the time to tell of it.
  EXPECT_LE(first_after, last_before + 2 * kInterval);
  EXPECT_EQ(WeightsOf(tasukid, job.model_version()), UndisturbedWeights(tasukid));
}

// Reasons of the job's states.
std::vector<std::string> Reasons(Tasukid& tasukid, const std::string& name) {
  std::vector<std::string> reasons;
  tasukid.Watch(name, 1, [&](const v1::TrainingJobEvent& event) {
    if (event.has_state_changed()) reasons.push_back(event.state_changed().reason());
    return false;
  });
  return reasons;
}

// Classifies without a pause on a thread of its own, and counts.
class Questioner {
 public:
  explicit Questioner(Tasukid& tasukid) : thread_([this, &tasukid] { Ask(tasukid); }) {}
  ~Questioner() {
    if (thread_.joinable()) Stop();
  }
  void Stop() {
    stopped_ = true;
    thread_.join();
  }
  int answers() const { return answers_; }
  int failures() const { return failures_; }

 private:
  void Ask(Tasukid& tasukid) {
    while (!stopped_) {
      v1::ClassifyResponse response;
      ++(tasukid.Classify(kReviews, {"1日前に届いた傘は普通です。"}, &response).ok() ? answers_
                                                                                     : failures_);
    }
  }

  std::atomic<bool> stopped_{false};
  std::atomic<int> answers_{0};
  std::atomic<int> failures_{0};
  std::thread thread_;
};

TEST(Kill, ATrainersDeathLeavesAnswersUntouchedAndItsJobGoesOn) {
  Tasukid tasukid(TheWorld().data_dir);
  tasukid.AwaitLoaded(kReviews);
  UndisturbedWeights(tasukid);
  Questioner questioner(tasukid);
  const std::string name = tasukid.Submit(LongJob("models/killed-trainer"));
  ASSERT_TRUE(tasukid.Watch(name, 1, IsLateCheckpoint));
  const int answers_before = questioner.answers();
  ASSERT_EQ(kill(tasukid.AwaitTrainer(), SIGKILL), 0);
  ExpectResumed(tasukid, name);
  questioner.Stop();
  EXPECT_GT(questioner.answers(), answers_before);
  EXPECT_EQ(questioner.failures(), 0);
  EXPECT_THAT(Reasons(tasukid, name), Contains(HasSubstr("signal 9 (Killed)")));
}

TEST(Kill, AServersDeathEndsItsTrainerAndTheNextServerGoesOn) {
  auto tasukid = std::make_unique<Tasukid>(TheWorld().data_dir);
  UndisturbedWeights(*tasukid);
  const std::string name = tasukid->Submit(LongJob("models/killed-server"));
  ASSERT_TRUE(tasukid->Watch(name, 1, IsLateCheckpoint));
  const pid_t trainer = tasukid->AwaitTrainer();
  tasukid->Kill();
  AwaitDeath(trainer);
  tasukid = std::make_unique<Tasukid>(TheWorld().data_dir);
  tasukid->AwaitLoaded(kReviews);
  ExpectResumed(*tasukid, name);
  EXPECT_THAT(Reasons(*tasukid, name), Contains(HasSubstr("The server was started anew")));
}

// As where a container is killed as a whole when its trainer takes too much memory.
TEST(Kill, AJobThatTakesEveryServerAlongEndsInACrashLoop) {
  v1::TrainingJob job = LongJob("models/server-killer");
  job.mutable_fine_tuning()->mutable_recipe()->set_checkpoint_every_steps(400);
  auto tasukid = std::make_unique<Tasukid>(TheWorld().data_dir);
  const std::string name = tasukid->Submit(job);
  for (int attempt = 1; attempt <= 5; ++attempt) {
    if (attempt <= 2) {
      tasukid->AwaitTrainer();
    } else {  // it takes less at once, and a checkpoint says so
      ASSERT_TRUE(tasukid->Watch(name, 1, [&](const v1::TrainingJobEvent& event) {
        return event.attempt() == attempt && event.has_checkpoint_written() &&
               event.checkpoint_written().step() == 0;
      }));
    }
    tasukid->Kill();
    tasukid = std::make_unique<Tasukid>(TheWorld().data_dir);
  }
  job = tasukid->GetJob(name);
  EXPECT_EQ(job.state(), v1::TrainingJob::FAILED);
  EXPECT_EQ(job.attempt(), 5);
  EXPECT_THAT(job.error().DebugString(), HasSubstr("CRASH_LOOP"));
  EXPECT_THAT(job.error().message(), HasSubstr("The server ended 5 times in a row"));
}

TEST(Kill, SigtermQueuesTheJobAndExitsWithZero) {
  auto tasukid = std::make_unique<Tasukid>(TheWorld().data_dir);
  UndisturbedWeights(*tasukid);
  const std::string name = tasukid->Submit(LongJob("models/stopped-server"));
  ASSERT_TRUE(tasukid->Watch(name, 1, IsLateCheckpoint));
  EXPECT_EQ(tasukid->Terminate(), 0);
  tasukid = std::make_unique<Tasukid>(TheWorld().data_dir);
  ExpectResumed(*tasukid, name);
  EXPECT_THAT(Reasons(*tasukid, name), Contains("The server stopped."));
}

TEST(Kill, ATrainerThatAlwaysDiesEndsInACrashLoop) {
  Tasukid tasukid({.data_dir = TheWorld().data_dir, .flags = {"--trainer=/bin/false"}});
  const v1::TrainingJob job = tasukid.AwaitEnd(tasukid.Submit(LongJob("models/crashed")));
  EXPECT_EQ(job.state(), v1::TrainingJob::FAILED);
  EXPECT_EQ(job.attempt(), 3);
  EXPECT_EQ(job.error().code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(job.error().DebugString(), HasSubstr("CRASH_LOOP"));
  EXPECT_THAT(job.error().message(), HasSubstr("it exited with code 1"));
}

}  // namespace
}  // namespace tasuki
