// tasuki-trainer killed with SIGKILL at random moments: the job ends with the bytes of a run that
// nobody disturbed. TASUKI_KILLS sets how often (default 3).
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <random>
#include <string>
#include <thread>

#include "model/files/durable.h"
#include "model/files/sha256.h"
#include "model/recipe/recipe.h"
#include "server/trainer/channels.h"
#include "tasuki/internal/trainer.pb.h"
#include "tests/model/training/tiny_base.h"

namespace tasuki {
namespace {

using Clock = std::chrono::steady_clock;

class ResumeTest : public testing::Test {
 protected:
  void SetUp() override {
    MakeBase(folder_, folder_ / "base");
    std::vector<v1::Example> rows = Opinions();
    WriteExamples(folder_ / "train.jsonl", {rows.begin(), rows.begin() + 96});
    WriteExamples(folder_ / "valid.jsonl", {rows.begin() + 96, rows.end()});
  }

  // A job of 60 steps with dropout, that evaluates every 10 and has a checkpoint every 4; with
  // `lora` it trains an adapter that has dropout, too.
  internal::TrainerSpec SpecOf(const std::string& directory, bool lora) const {
    internal::TrainerSpec spec;
    v1::TrainingJob& job = *spec.mutable_job();
    job.set_name("trainingJobs/t");
    job.set_model("models/mood");
    v1::FineTuning& work = *job.mutable_fine_tuning();
    work.set_base_model_version("models/base/versions/1");
    *work.add_tasks() = MoodTask();
    work.mutable_tasks(0)->set_valid_dataset("datasets/valid");
    work.mutable_recipe()->set_steps(60);
    work.mutable_recipe()->set_evaluate_every_steps(10);
    work.mutable_recipe()->set_checkpoint_every_steps(4);
    if (lora) work.mutable_lora()->set_dropout(.1);
    Faults faults;
    ResolveJob(job, faults);
    spec.set_job_dir(directory);
    spec.set_base_dir(folder_ / "base");
    spec.set_threads(1);
    spec.set_device("cpu");
    for (const std::string split : {"train", "valid"}) {
      auto& dataset = *spec.add_datasets();
      dataset.set_name("datasets/" + split);
      dataset.set_path(folder_ / (split + ".jsonl"));
      dataset.set_sha256(Sha256Of(*ReadFile(dataset.path())));
    }
    return spec;
  }

  // Runs the program on the job in `directory`, and kills it `delay` after it began to work if that
  // is not zero. Answers whether it ended by itself, and well.
  bool Run(const std::string& directory, Clock::duration delay = {}) {
    int commands[2];
    EXPECT_EQ(pipe2(commands, O_CLOEXEC), 0);
    const std::string spec = directory + "/spec.json";
    const pid_t pid = fork();
    if (pid == 0) {
      const int sink = open("/dev/null", O_WRONLY);
      dup2(commands[0], kCommandsFd);
      dup2(sink, 1);
      dup2(sink, 2);
      dup2(sink, kEventsFd);
      execl(TASUKI_BINARY_DIR "/bin/tasuki-trainer", "tasuki-trainer", "--spec", spec.c_str(),
            nullptr);
      _exit(127);
    }
    // Loading the libraries takes longer than the job; what counts is what comes after.
    const Clock::time_point deadline = Clock::now() + std::chrono::minutes(1);
    while (!std::filesystem::exists(directory + "/checkpoints") && Clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    const Clock::time_point begin = Clock::now();
    if (delay > Clock::duration::zero()) {
      std::this_thread::sleep_for(delay);
      kill(pid, SIGKILL);
    }
    int status = 0;
    waitpid(pid, &status, 0);
    work_time_ = Clock::now() - begin;
    close(commands[0]);
    close(commands[1]);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }

  std::string NewJob(const std::string& name, bool lora) const {
    const std::string directory = folder_ / name;
    EXPECT_TRUE(MakeDirectories(directory).ok());
    EXPECT_TRUE(WriteJson(directory + "/spec.json", SpecOf(directory, lora)).ok());
    return directory;
  }

  static std::string WeightsOf(const std::string& directory) {
    const auto bytes = ReadFile(directory + "/result/model.safetensors");
    return bytes.ok() ? Sha256Of(*bytes) : "no weights";
  }

  const Folder folder_;
  Clock::duration work_time_ = {};  // of the last run
};

class ResumeOf : public ResumeTest, public testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(Resume, ResumeOf, testing::Bool(),
                         [](const auto& lora) { return lora.param ? "Adapter" : "AllWeights"; });

TEST_P(ResumeOf, KillsChangeNoByteOfTheResult) {
  const bool lora = GetParam();
  const char* wanted = std::getenv("TASUKI_KILLS");
  const int kills = wanted != nullptr ? std::atoi(wanted) : 3;
  ASSERT_GT(kills, 0);
  const std::string undisturbed = NewJob("undisturbed", lora);
  ASSERT_TRUE(Run(undisturbed));
  const int64_t milliseconds =
      std::chrono::duration_cast<std::chrono::milliseconds>(work_time_).count();
  const std::string expected = WeightsOf(undisturbed);
  ASSERT_NE(expected, "no weights");

  std::mt19937_64 random(12);
  int killed = 0, resumed = 0, equal = 0;
  for (int job = 0; killed < kills; ++job) {
    ASSERT_LT(job, 10 * kills) << "the trainer ends before it can be killed";
    const std::string directory = NewJob("job-" + std::to_string(job), lora);
    const std::chrono::milliseconds delay(1 + static_cast<int64_t>(random() % milliseconds));
    if (Run(directory, delay)) continue;  // it was faster
    ++killed;
    for (const auto& entry : std::filesystem::directory_iterator(directory + "/checkpoints")) {
      if (!entry.path().filename().string().starts_with("step-")) continue;
      ++resumed;
      break;
    }
    ASSERT_TRUE(Run(directory)) << "after a kill at " << delay.count() << " ms";
    equal += WeightsOf(directory) == expected;
    EXPECT_EQ(WeightsOf(directory), expected) << "after a kill at " << delay.count() << " ms";
    std::filesystem::remove_all(directory);
  }
  std::cout << (lora ? "an adapter: " : "all weights: ") << killed << " kills at random moments, "
            << resumed << " of them with a checkpoint: " << equal << " times the same bytes\n";
}

}  // namespace
}  // namespace tasuki
