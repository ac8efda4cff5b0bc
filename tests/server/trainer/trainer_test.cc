// What the trainer tells the server at its end, each attempt in a process of its own.
#include "server/trainer/trainer.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "google/protobuf/io/zero_copy_stream_impl.h"
#include "google/protobuf/util/delimited_message_util.h"
#include "google/rpc/error_details.pb.h"
#include "model/errors/errors.h"
#include "model/files/durable.h"
#include "model/files/sha256.h"
#include "model/recipe/recipe.h"
#include "server/trainer/channels.h"
#include "tasuki/internal/trainer.pb.h"

namespace tasuki {
namespace {

using testing::IsEmpty;
using testing::SizeIs;

class TrainerTest : public testing::Test {
 protected:
  TrainerTest() {
    std::string root = testing::TempDir() + "trainer.XXXXXX";
    directory_ = mkdtemp(root.data());
    spec_.mutable_job()->set_name("trainingJobs/t");
    spec_.mutable_job()->mutable_pretraining()->add_datasets("datasets/d");
    spec_.set_job_dir(directory_);
    spec_.set_threads(1);
    spec_.set_device("cpu");
    auto& dataset = *spec_.add_datasets();
    dataset.set_name("datasets/d");
    dataset.set_path(directory_ + "/d.jsonl");
    dataset.set_sha256(std::string(64, '0'));
  }
  ~TrainerTest() override { std::filesystem::remove_all(directory_); }

  // Runs `program` with the channels of a trainer. Answers its exit code; what it sent is in
  // events_.
  int Run(const std::function<int()>& program) {
    int commands[2], events[2];
    EXPECT_EQ(pipe2(commands, O_CLOEXEC), 0);
    EXPECT_EQ(pipe2(events, O_CLOEXEC), 0);
    const pid_t pid = fork();
    if (pid == 0) {
      // Away from the numbers that a trainer's channels have.
      const int in = fcntl(commands[0], F_DUPFD, 20);
      const int out = fcntl(events[1], F_DUPFD, 20);
      dup2(in, kCommandsFd);
      dup2(out, kEventsFd);
      _exit(program());
    }
    close(events[1]);
    google::protobuf::io::FileInputStream stream(events[0]);
    internal::TrainerEvent event;
    while (google::protobuf::util::ParseDelimitedFromZeroCopyStream(&event, &stream, nullptr)) {
      events_.push_back(event);
      event.Clear();
    }
    int status = 0;
    waitpid(pid, &status, 0);
    for (const int fd : {commands[0], commands[1], events[0]}) close(fd);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  int Train() {
    EXPECT_TRUE(WriteJson(directory_ + "/spec.json", spec_).ok());
    return Run([this] { return TrainJob(directory_ + "/spec.json"); });
  }

  int Estimate() {
    EXPECT_TRUE(WriteJson(directory_ + "/spec.json", spec_).ok());
    return Run([this] { return EstimateJob(directory_ + "/spec.json"); });
  }

  std::string directory_;
  internal::TrainerSpec spec_;
  std::vector<internal::TrainerEvent> events_;
};

TEST_F(TrainerTest, SaysWhatAnotherAttemptWouldMeetAgain) {
  ASSERT_TRUE(WriteFile(directory_ + "/d.jsonl", "{}").ok());
  EXPECT_EQ(Train(), kExitData);
  ASSERT_THAT(events_, SizeIs(1));
  google::rpc::ErrorInfo info;
  ASSERT_EQ(events_[0].failed().details_size(), 1);
  ASSERT_TRUE(events_[0].failed().details(0).UnpackTo(&info));
  EXPECT_EQ(info.reason(), "FILE_CHANGED");
}

TEST_F(TrainerTest, TakesABaseOnlyAsTheStoreKnowsIt) {
  ASSERT_TRUE(WriteFile(directory_ + "/d.jsonl", "{}").ok());
  spec_.mutable_datasets(0)->set_sha256(Sha256OfFile(directory_ + "/d.jsonl").value());
  spec_.set_base_dir(directory_ + "/base");
  ASSERT_TRUE(MakeDirectories(spec_.base_dir()).ok());
  ASSERT_TRUE(WriteFile(spec_.base_dir() + "/tasuki.json", "{}").ok());
  auto& file = *spec_.add_base_files();
  file.set_name("tasuki.json");
  file.set_size_bytes(2);
  file.set_sha256(std::string(64, '0'));
  EXPECT_EQ(Train(), kExitData);
  ASSERT_THAT(events_, SizeIs(1));
  EXPECT_THAT(events_[0].failed().message(), ::testing::HasSubstr("tasuki.json"));
  google::rpc::ErrorInfo info;
  ASSERT_EQ(events_[0].failed().details_size(), 1);
  ASSERT_TRUE(events_[0].failed().details(0).UnpackTo(&info));
  EXPECT_EQ(info.reason(), "FILE_CHANGED");
}

TEST_F(TrainerTest, DiesOfWhatAnotherAttemptMayNotMeet) {
  // A file that cannot be read, though it is there.
  ASSERT_TRUE(MakeDirectories(directory_ + "/d.jsonl").ok());
  EXPECT_EQ(Train(), kExitSoftware);
  EXPECT_THAT(events_, IsEmpty());
}

TEST_F(TrainerTest, SendsAnEstimateAndLeavesNothingElse) {
  std::string rows;
  for (int i = 0; i < 20; ++i) rows += "{\"text\":\"the soup was lovely at noon\"}\n";
  ASSERT_TRUE(WriteFile(directory_ + "/d.jsonl", rows).ok());
  spec_.mutable_datasets(0)->set_sha256(*Sha256OfFile(directory_ + "/d.jsonl"));
  Faults faults;
  spec_.mutable_job()->set_model("models/m");
  ResolveJob(*spec_.mutable_job(), faults);
  ASSERT_TRUE(faults.empty()) << faults.ToStatus();
  EXPECT_EQ(Estimate(), 0);
  ASSERT_THAT(events_, SizeIs(1));
  EXPECT_EQ(events_[0].estimate().steps(), 1);
  EXPECT_GT(events_[0].estimate().memory().program_bytes(), 0);
}

TEST_F(TrainerTest, SaysWhyThereIsNoEstimate) {
  ASSERT_TRUE(WriteFile(directory_ + "/d.jsonl", "{}").ok());
  EXPECT_EQ(Estimate(), kExitData);
  ASSERT_THAT(events_, SizeIs(1));
  EXPECT_TRUE(events_[0].has_failed());
}

TEST_F(TrainerTest, IsTheFirstToGoWhenMemoryRunsOut) {
  const auto score = [] {
    int value = 0;
    std::ifstream("/proc/self/oom_score_adj") >> value;
    return value == 1000 ? 1 : 0;
  };
  EXPECT_EQ(Run([&] {
              TrainJob("/nothing");
              return score();
            }),
            1);
  EXPECT_EQ(Run([&] {
              CheckDirectory(directory_);
              return score();
            }),
            1);
}

TEST_F(TrainerTest, TakesTheTimeThatOthersLeaveIfItIsToldSo) {
  for (const bool idle : {true, false}) {
    spec_.set_idle_priority(idle);
    ASSERT_TRUE(WriteJson(directory_ + "/spec.json", spec_).ok());
    for (int (*program)(const std::string&) : {TrainJob, EstimateJob}) {
      EXPECT_EQ(Run([&] {
                  program(directory_ + "/spec.json");
                  return sched_getscheduler(0);
                }),
                idle ? SCHED_IDLE : SCHED_OTHER);
    }
  }
}

}  // namespace
}  // namespace tasuki
