#include "server/serving/model_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>

#include "model/errors/errors.h"
#include "model/files/durable.h"

namespace tasuki {
namespace {

using testing::HasSubstr;

// Runs the check with a shell script in the trainer's place: $1 is --check, $2 the directory.
class ModelCheckTest : public testing::Test {
 protected:
  ModelCheckTest() {
    std::string directory = testing::TempDir() + "check.XXXXXX";
    directory_ = mkdtemp(directory.data());
  }
  ~ModelCheckTest() override { std::filesystem::remove_all(directory_); }

  absl::StatusOr<int64_t> Check(const std::string& script,
                                const std::function<bool()>& cancelled = nullptr,
                                absl::Duration limit = absl::Seconds(30)) {
    const std::string program = directory_ + "/trainer";
    EXPECT_TRUE(WriteFile(program, "#!/bin/sh\n" + script).ok());
    EXPECT_EQ(chmod(program.c_str(), 0755), 0);
    return CheckInChildProcess(program, directory_, cancelled, limit);
  }

  std::string directory_;
};

TEST_F(ModelCheckTest, AnswersTheNumberOfWeights) {
  const auto weights = Check("[ \"$1\" = --check ] && [ -d \"$2\" ] && echo 952064");
  ASSERT_TRUE(weights.ok()) << weights.status();
  EXPECT_EQ(*weights, 952064);
}

TEST_F(ModelCheckTest, TellsWhatTheProcessSaidWithoutOurPaths) {
  const auto weights = Check("echo \"$2/config.json is not a T5\" >&2; exit 65");
  EXPECT_TRUE(absl::IsInvalidArgument(weights.status()));
  EXPECT_EQ(ReasonOf(weights.status()), v1::MODEL_INVALID);
  EXPECT_THAT(weights.status().message(), HasSubstr(": config.json is not a T5"));
}

TEST_F(ModelCheckTest, TakesADeathForAMalformedFile) {
  const auto weights = Check("kill -SEGV $$");
  EXPECT_EQ(ReasonOf(weights.status()), v1::MODEL_INVALID);
  EXPECT_THAT(weights.status().message(), HasSubstr("died of signal 11"));
}

TEST_F(ModelCheckTest, KillsAProcessThatTakesTooLong) {
  const absl::Time start = absl::Now();
  const auto weights = Check("exec sleep 60", nullptr, absl::Milliseconds(100));
  EXPECT_EQ(ReasonOf(weights.status()), v1::MODEL_INVALID);
  EXPECT_THAT(weights.status().message(), HasSubstr("longer than 100ms"));
  EXPECT_LT(absl::Now() - start, absl::Seconds(30));
}

TEST_F(ModelCheckTest, KillsItsProcessWhenTheCallerIsGone) {
  const auto weights = Check("exec sleep 60", [] { return true; });
  EXPECT_TRUE(absl::IsCancelled(weights.status())) << weights.status();
}

TEST_F(ModelCheckTest, SurvivesAFloodOfOutput) {
  const auto weights = Check("yes oops | head -c 3000000 >&2; exit 65");
  EXPECT_EQ(ReasonOf(weights.status()), v1::MODEL_INVALID);
  EXPECT_LT(weights.status().message().size(), 20'000);
}

TEST_F(ModelCheckTest, SaysThatTheProgramCannotBeStarted) {
  const auto weights = CheckInChildProcess(directory_ + "/nothing", directory_, nullptr);
  EXPECT_TRUE(absl::IsUnavailable(weights.status()));
  EXPECT_THAT(weights.status().message(), HasSubstr("/nothing could not be started"));
}

TEST_F(ModelCheckTest, PassesNoDescriptorAndNoBlockedSignalOn) {
  sigset_t term, before;
  sigemptyset(&term);
  sigaddset(&term, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &term, &before);
  // What a shell opens for itself has numbers from 10 on. It blocks signals while it starts a
  // program, so it reads its own mask.
  const auto weights = Check(
      "ls /proc/$$/fd > $2/open; grep -xE '[3-9]' $2/open >&2 && exit 1\n"
      "while read name mask; do [ $name = SigBlk: ] && blocked=$mask; done < /proc/$$/status\n"
      "[ $blocked = 0000000000000000 ] || exit 2\n"
      "echo 7");
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ASSERT_TRUE(weights.ok()) << weights.status();
}

}  // namespace
}  // namespace tasuki
