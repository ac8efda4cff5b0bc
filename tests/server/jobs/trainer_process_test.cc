#include "server/jobs/trainer_process.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "model/files/durable.h"
#include "server/jobs/trainer_log.h"

namespace tasuki {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

class TrainerProcessTest : public testing::Test {
 protected:
  TrainerProcessTest() {
    char root[] = "/tmp/tasuki_process_XXXXXX";
    directory_ = mkdtemp(root);
  }
  ~TrainerProcessTest() override { EXPECT_TRUE(RemoveAll(directory_).ok()); }

  // Starts the fake trainer with a script (fake_trainer.cc).
  std::unique_ptr<TrainerProcess> Start(const std::string& script) {
    internal::TrainerSpec spec;
    spec.mutable_job()->set_display_name(script);
    spec.set_attempt(1);
    spec.set_job_dir(directory_);
    EXPECT_TRUE(WriteJson(directory_ + "/spec.json", spec).ok());
    auto process = TrainerProcess::Start({.program = TASUKI_BINARY_DIR "/fake_trainer",
                                          .arguments = {"--spec", directory_ + "/spec.json"},
                                          .log_path = directory_ + "/log",
                                          .environment = {{"OMP_NUM_THREADS", "3"}}});
    EXPECT_TRUE(process.ok()) << process.status();
    return process.ok() ? *std::move(process) : nullptr;
  }
  std::string Facts() {
    std::ostringstream facts;
    facts << std::ifstream(directory_ + "/facts").rdbuf();
    return facts.str();
  }

  std::string directory_;
};

TEST_F(TrainerProcessTest, HandsOnEventsInOrderThenTheEnd) {
  auto process = Start("progress checkpoint exit:3");
  auto event = process->ReadEvent();
  ASSERT_TRUE(event.ok() && event->has_value());
  EXPECT_EQ((*event)->progress().step(), 3);
  event = process->ReadEvent();
  ASSERT_TRUE(event.ok() && event->has_value());
  EXPECT_EQ((*event)->checkpoint_written().step(), 5);
  event = process->ReadEvent();
  ASSERT_TRUE(event.ok());
  EXPECT_FALSE(event->has_value());
  EXPECT_EQ(process->Wait().Describe(), "it exited with code 3");
}

TEST_F(TrainerProcessTest, InheritsNothingButItsChannels) {
  // What a server has about it: a file that is not closed on exec, a blocked and an ignored signal.
  const int leaky = open("/dev/null", O_RDONLY);
  ASSERT_GE(leaky, 0);
  sigset_t blocked, before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  const auto pipe_handler = signal(SIGPIPE, SIG_IGN);
  auto process = Start("facts");
  process->Wait();
  signal(SIGPIPE, pipe_handler);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  close(leaky);

  const std::string facts = Facts();
  EXPECT_THAT(facts, HasSubstr("pgid own\nfd 0\nfd 1\nfd 2\nfd 3\nOMP_NUM_THREADS=3\n"));
  EXPECT_THAT(facts, Not(HasSubstr("PATH=(unset)")));
}

TEST_F(TrainerProcessTest, AppendsOutputToTheLog) {
  Start("say:one")->Wait();
  Start("say:two")->Wait();
  EXPECT_THAT(LastLogLines(directory_ + "/log", 10),
              ElementsAre("attempt 1", "one", "attempt 1", "two"));
}

TEST_F(TrainerProcessTest, SendsCommands) {
  auto process = Start("wait");
  process->Send(internal::TrainerCommand::STOP);
  const auto event = process->ReadEvent();
  ASSERT_TRUE(event.ok() && event->has_value());
  EXPECT_TRUE((*event)->has_stopped());
  EXPECT_EQ(process->Wait().code, 0);
}

TEST_F(TrainerProcessTest, SurvivesSendingToAProcessThatEnded) {
  auto process = Start("exit:0");
  process->Wait();
  process->Send(internal::TrainerCommand::STOP);  // SIGPIPE would end this test
  process->Kill();
  EXPECT_EQ(process->Wait().code, 0);
}

TEST_F(TrainerProcessTest, DescribesSignals) {
  EXPECT_THAT(Start("abort")->Wait().Describe(), HasSubstr("signal 6 (Aborted)"));
  EXPECT_EQ(Start("kill")->Wait().Describe(), "it was ended by signal 9 (Killed)");
}

TEST_F(TrainerProcessTest, KillsAProcessThatDoesNotListen) {
  auto process = Start("progress deaf");
  ASSERT_TRUE(process->ReadEvent().ok());
  process->Send(internal::TrainerCommand::ABANDON);
  process->Kill();
  EXPECT_EQ(process->Wait().signal, SIGKILL);
}

TEST_F(TrainerProcessTest, RefusesAnEventThatIsNone) {
  auto process = Start("garbage");
  EXPECT_TRUE(absl::IsDataLoss(process->ReadEvent().status()));
}

TEST_F(TrainerProcessTest, NamesAProgramThatIsNotThere) {
  const auto process =
      TrainerProcess::Start({.program = "/nonexistent/trainer", .log_path = directory_ + "/log"});
  EXPECT_TRUE(absl::IsUnavailable(process.status()));
  EXPECT_THAT(std::string(process.status().message()),
              HasSubstr("/nonexistent/trainer: No such file"));
}

}  // namespace
}  // namespace tasuki
