// A program that speaks the trainer's protocol and does what the job's display_name says: it stands
// for tasuki-trainer where a test needs a trainer that dies, hangs or lies.
//
// The display name is a script of words; '|' parts the attempts, and the last part serves all later
// ones ("checkpoint kill | finish"):
//   progress     reports one progress             checkpoint  says that one was written
//   prepares     reports that it prepares
//   evaluation   reports one evaluation           message     says a sentence
//   say:TEXT     prints a line                    bytes       prints bytes that are not UTF-8
//   abort, kill  dies by that signal              exit:N      ends without a word
//   finish       leaves a result and says so      fail        reports a failure; exits with 65
//   passed_over  says that a damaged checkpoint was passed over
//   not_written  says that a checkpoint could not be written
//   f1:C:E       a task "mood" has macro F1 C in the result of a fine-tuning, E in an evaluation's
//   answers      leaves predictions of three lines
//   hungry       reports that memory ran out; exits with 65
//   garbage      writes what is no event
//   linger       goes on after its last word
//   wait         waits for a command and stops, or finishes if that is the command
//   deaf         ignores every command
//   facts        writes what it inherited to `facts` in the job's directory
//   starve       counts an out-of-memory kill in `vmstat` of the job's directory and dies of it
//   nap          does nothing for a moment
//   estimate     sends an estimate of 7 steps
// Like the real one it ends at the end of its commands.

#include <dirent.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "google/protobuf/io/zero_copy_stream_impl.h"
#include "google/protobuf/util/delimited_message_util.h"
#include "model/errors/errors.h"
#include "model/errors/status_proto.h"
#include "model/files/durable.h"
#include "tasuki/internal/trainer.pb.h"

namespace tasuki {
namespace {

void Write(const internal::TrainerEvent& event) {
  if (!google::protobuf::util::SerializeDelimitedToFileDescriptor(event, 3)) _exit(74);
}

// The next command; ends the process at the end of the commands.
internal::TrainerCommand::Action ReadCommand() {
  static google::protobuf::io::FileInputStream stream(0);
  internal::TrainerCommand command;
  if (!google::protobuf::util::ParseDelimitedFromZeroCopyStream(&command, &stream, nullptr)) {
    _exit(74);
  }
  return command.action();
}

void WriteFacts(const std::string& path) {
  std::ofstream facts(path);
  facts << "pgid " << (getpgrp() == getpid() ? "own" : "shared") << "\n";
  DIR* directory = opendir("/proc/self/fd");
  std::vector<int> fds;
  while (const dirent* entry = readdir(directory)) {
    const int fd = std::atoi(entry->d_name);
    if (entry->d_name[0] != '.' && fd != dirfd(directory)) fds.push_back(fd);
  }
  closedir(directory);
  for (const int fd : fds) {
    // Not the file of facts itself, which was opened here.
    char target[256] = {};
    if (readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), target, 255) > 0 &&
        std::string(target) == path) {
      continue;
    }
    facts << "fd " << fd << "\n";
  }
  sigset_t mask;
  sigprocmask(SIG_SETMASK, nullptr, &mask);
  for (int number = 1; number < 32; ++number) {
    struct sigaction action = {};
    sigaction(number, nullptr, &action);
    if (sigismember(&mask, number) == 1) facts << "blocked " << number << "\n";
    if (action.sa_handler != SIG_DFL) facts << "not default " << number << "\n";
  }
  for (const char* name : {"OMP_NUM_THREADS", "OMP_WAIT_POLICY", "PATH"}) {
    const char* value = std::getenv(name);
    facts << name << "=" << (value == nullptr ? "(unset)" : value) << "\n";
  }
}

std::string macro_f1;  // of the result

void Finish(const internal::TrainerSpec& spec) {
  const std::string result = spec.job_dir() + "/result";
  if (!MakeDirectories(result).ok()) _exit(1);
  if (!WriteFile(result + "/made_by_attempt", std::to_string(spec.attempt())).ok()) _exit(1);
  internal::TrainerEvent event;
  event.mutable_finished()->set_best_step(7);
  event.mutable_finished()->add_evaluations()->set_accuracy(.75);
  event.mutable_finished()->add_calibrations()->set_temperature(1.5);
  if (!macro_f1.empty()) {
    v1::Evaluation& evaluation = *event.mutable_finished()->add_evaluations();
    evaluation.set_task("mood");
    evaluation.set_method(v1::Evaluation::LABEL);
    evaluation.set_split(v1::Evaluation::TEST);
    evaluation.set_macro_f1(std::stod(macro_f1));
  }
  Write(event);
}

void Do(const std::string& word, const internal::TrainerSpec& spec) {
  internal::TrainerEvent event;
  if (word == "progress") {
    event.mutable_progress()->set_step(3);
    event.mutable_progress()->set_total_steps(10);
    Write(event);
  } else if (word == "prepares") {
    event.mutable_progress()->set_phase(tasuki::v1::Progress::PREPARING);
    Write(event);
  } else if (word == "evaluation") {
    event.mutable_evaluation()->set_task("sentiment");
    event.mutable_evaluation()->set_accuracy(.5);
    Write(event);
  } else if (word == "checkpoint") {
    event.mutable_checkpoint_written()->set_step(5 * spec.attempt());
    Write(event);
  } else if (word == "passed_over" || word == "not_written") {
    event.mutable_checkpoint_trouble()->set_passed_over(word == "passed_over");
    Write(event);
  } else if (word == "message") {
    event.mutable_message()->set_severity(v1::TrainingJobEvent::Message::WARNING);
    event.mutable_message()->set_text("A sentence.");
    Write(event);
  } else if (word == "answers") {
    if (!WriteFile(spec.job_dir() + "/predictions.jsonl", "1\n2\n3\n").ok()) _exit(1);
  } else if (word == "finish") {
    Finish(spec);
  } else if (word == "fail") {
    *event.mutable_failed() = StatusProto(
        MakeError(absl::StatusCode::kOutOfRange, v1::NON_FINITE_LOSS, "The loss is NaN."));
    Write(event);
    _exit(65);
  } else if (word == "hungry") {
    *event.mutable_failed() =
        StatusProto(MakeError(absl::StatusCode::kResourceExhausted, v1::OUT_OF_MEMORY,
                              "the training does not fit into memory"));
    Write(event);
    _exit(65);
  } else if (word == "garbage") {
    (void)!write(3, "\x05zzzzz", 6);
    while (true) ReadCommand();
  } else if (word == "wait") {
    if (ReadCommand() == internal::TrainerCommand::FINISH) return Finish(spec);
    event.mutable_stopped()->set_step(3);
    Write(event);
    _exit(0);
  } else if (word == "deaf" || word == "linger") {
    while (true) ReadCommand();
  } else if (word == "abort") {
    std::abort();
  } else if (word == "kill") {
    raise(SIGKILL);
  } else if (word == "starve") {
    const std::string counts = "nr_free_pages 7\noom_kill " + std::to_string(spec.attempt()) + "\n";
    if (!WriteFile(spec.job_dir() + "/vmstat", counts).ok()) _exit(1);
    raise(SIGKILL);
  } else if (word == "estimate") {
    event.mutable_estimate()->set_steps(7);
    *event.mutable_estimate()->mutable_training_job() = spec.job();
    Write(event);
  } else if (word == "nap") {
    usleep(300'000);
  } else if (word == "facts") {
    WriteFacts(spec.job_dir() + "/facts");
  } else if (word == "bytes") {
    std::cout << "bad \xff byte" << std::endl;
  } else if (word.rfind("exit:", 0) == 0) {
    _exit(std::atoi(word.c_str() + 5));
  } else if (word.rfind("f1:", 0) == 0) {
    const std::vector<std::string> parts = absl::StrSplit(word, ':');
    macro_f1 = parts.at(spec.job().has_evaluation() ? 2 : 1);
  } else if (word.rfind("say:", 0) == 0) {
    std::cout << word.substr(4) << std::endl;
  } else {
    std::cerr << "unknown word: " << word << std::endl;
    _exit(64);
  }
}

int Main(int argc, char** argv) {
  internal::TrainerSpec spec;
  if (argc != 3 || !ReadJson(argv[2], spec).ok()) return 64;
  if (argv[1] == std::string("--estimate")) {
    spec.set_attempt(1);
  } else if (argv[1] != std::string("--spec")) {
    return 64;
  }
  std::cout << "attempt " << spec.attempt() << std::endl;
  const std::vector<std::string> parts = absl::StrSplit(spec.job().display_name(), '|');
  const std::string& part = parts[std::min<size_t>(spec.attempt(), parts.size()) - 1];
  const std::vector<std::string> words = absl::StrSplit(part, ' ', absl::SkipEmpty());
  for (const std::string& word : words) Do(word, spec);
  return 0;
}

}  // namespace
}  // namespace tasuki

#ifdef __SANITIZE_ADDRESS__
// AddressSanitizer handles these signals before main, which would hide from `facts` how they were
// inherited.
extern "C" const char* __asan_default_options() {
  return "handle_segv=0:handle_sigbus=0:handle_sigfpe=0";
}
#endif

int main(int argc, char** argv) { return tasuki::Main(argc, argv); }
