// Measures what a training job costs those who classify: a real tasukid on this machine, one caller
// who sends one text at a time, beside a job that fine-tunes the served model, and without it.
//
// usage: bench-latency MODEL TRAIN TEXTS [--calls N] [--rounds N] [--gap MS] [-- FLAG…]
// MODEL is a directory with a task "amcd" (bench/model.py), TRAIN a file of AMCD, TEXTS has one
// text a line. Flags after `--` are tasukid's. In each of the rounds (5) the trainer is stopped
// (SIGSTOP) for N calls (100) and runs during the next N, with the same texts; --gap is the pause
// between an answer and the next call. Prints one line of JSON: milliseconds of a call, quiet and
// beside the training, their ratio, and the processor time that the trainer had meanwhile, in
// cores. What goes wrong ends the program with a line and code 1.
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "client/client.h"

extern char** environ;

namespace tasuki {
namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::duration<double, std::milli>;

struct Failure {
  std::string what;
};

void Check(const absl::Status& status) {
  if (!status.ok()) throw Failure{status.ToString()};
}
template <typename T>
T Check(absl::StatusOr<T> result) {
  Check(result.status());
  return *std::move(result);
}

std::string ReadAll(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// A tasukid beside this program with a data directory of its own; gone with this object.
class Tasukid {
 public:
  explicit Tasukid(const std::vector<std::string>& flags) {
    std::string directory = std::filesystem::temp_directory_path() / "tasuki_latency_XXXXXX";
    if (mkdtemp(directory.data()) == nullptr) throw Failure{"no directory " + directory};
    directory_ = directory;
    const std::string ready = directory_ / "ready.json";
    std::vector<std::string> words = {
        std::filesystem::read_symlink("/proc/self/exe").replace_filename("tasukid"),
        "--data_dir=" + (directory_ / "data").string(),
        "--listen=127.0.0.1:0",
        "--metrics_listen=none",
        "--ready_file=" + ready,
        "--log_level=warning"};
    words.insert(words.end(), flags.begin(), flags.end());
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    if (posix_spawn(&pid_, arguments[0], nullptr, nullptr, arguments.data(), environ) != 0) {
      throw Failure{words[0] + " cannot be started"};
    }
    const std::string key = "\"listen\": \"";
    while (address_.empty()) {
      if (waitpid(pid_, nullptr, WNOHANG) != 0) throw Failure{"tasukid ended before it served"};
      std::this_thread::sleep_for(Milliseconds(10));
      const std::string json = ReadAll(ready);
      if (const size_t at = json.find(key); at != std::string::npos) {
        address_ = json.substr(at + key.size(), json.find('"', at + key.size()) - at - key.size());
      }
    }
  }
  ~Tasukid() {
    kill(pid_, SIGTERM);
    waitpid(pid_, nullptr, 0);
    std::filesystem::remove_all(directory_);
  }
  const std::string& address() const { return address_; }
  // The process id of its trainer.
  pid_t Trainer() const {
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      std::istringstream stat(ReadAll(entry.path() / "stat"));  // PID (COMMAND) STATE PARENT …
      pid_t pid = 0, parent = 0;
      std::string command, state;
      if (stat >> pid >> command >> state >> parent && parent == pid_) return pid;
    }
    throw Failure{"there is no trainer"};
  }

 private:
  std::filesystem::path directory_;
  pid_t pid_ = 0;
  std::string address_;
};

// Processor time of a process, in seconds.
double ProcessorSeconds(pid_t pid) {
  const std::string stat = ReadAll("/proc/" + std::to_string(pid) + "/stat");
  std::istringstream rest(stat.substr(stat.rfind(')') + 2));
  std::string word;
  for (int field = 3; field < 14; ++field) rest >> word;
  double user = 0, system = 0;
  rest >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

// Imports the model, starts a job on it and waits for its first step.
std::string StartTraining(Client& client, const std::string& model, const std::string& train) {
  const v1::ModelVersion version = Check(client.ImportModelVersion("models/served", model));
  Check(client.LoadModelVersion(version.name()).status());
  v1::UploadDatasetHeader header;
  header.mutable_format()->set_kind(v1::DatasetFormat::TSV);
  header.mutable_format()->set_quoting(v1::DatasetFormat::NONE);
  header.mutable_format()->set_text_column("sentence");
  header.mutable_format()->set_label_column("is_counterfactual");
  const v1::Dataset dataset = Check(client.UploadDataset(UploadSource::File(train), header));
  v1::CreateTrainingJobRequest request;
  v1::TrainingJob& job = *request.mutable_training_job();
  job.set_model("models/trained");
  job.mutable_fine_tuning()->set_base_model_version(version.name());
  v1::Task& task = *job.mutable_fine_tuning()->add_tasks();
  task.set_name("amcd");
  task.set_train_dataset(dataset.name());
  for (const char* label : {"0", "1"}) task.add_labels()->set_name(label);
  job.mutable_fine_tuning()->mutable_recipe()->set_batch_size(32);
  job.mutable_fine_tuning()->mutable_recipe()->set_steps(1'000'000);
  job.mutable_fine_tuning()->mutable_recipe()->set_checkpoint_every_steps(0);
  const std::string name = Check(client.CreateTrainingJob(request)).name();
  for (v1::TrainingJob now; now.progress().step() < 1; now = Check(client.GetTrainingJob(name))) {
    if (now.has_error()) throw Failure{now.error().message()};
    std::this_thread::sleep_for(Milliseconds(200));
  }
  return name;
}

struct Latencies {
  std::vector<double> milliseconds;
  double At(double share) {
    std::sort(milliseconds.begin(), milliseconds.end());
    return milliseconds[static_cast<size_t>(share * static_cast<double>(milliseconds.size() - 1))];
  }
  std::string Json() {
    return absl::StrFormat(
        "{\"calls\": %d, \"p50_ms\": %.2f, \"p90_ms\": %.2f, \"p99_ms\": %.2f, "
        "\"max_ms\": %.2f}",
        milliseconds.size(), At(.5), At(.9), At(.99), At(1));
  }
};

struct Caller {
  Client& client;
  const std::vector<std::string>& texts;
  Milliseconds gap;

  void Call(size_t first, size_t count, Latencies& latencies) {
    for (size_t i = first; i < first + count; ++i) {
      v1::ClassifyRequest request;
      request.set_model("models/served");
      request.add_tasks("amcd");
      request.add_texts(texts[i % texts.size()]);
      const auto begin = Clock::now();
      Check(client.Classify(request).status());
      latencies.milliseconds.push_back(Milliseconds(Clock::now() - begin).count());
      std::this_thread::sleep_for(gap);
    }
  }
};

int Run(int count, char** arguments) {
  size_t calls = 100;
  int rounds = 5;
  double gap = 0;
  std::vector<std::string> flags;
  for (int i = 4; i < count; ++i) {
    const std::string word = arguments[i];
    if (word == "--") {
      flags.assign(arguments + i + 1, arguments + count);
      break;
    }
    if (i + 1 == count) break;
    if (word == "--calls") calls = std::atoi(arguments[++i]);
    if (word == "--rounds") rounds = std::atoi(arguments[++i]);
    if (word == "--gap") gap = std::atof(arguments[++i]);
  }
  if (count < 4 || calls == 0 || rounds < 1) {
    std::cerr << "usage: bench-latency MODEL TRAIN TEXTS [--calls N] [--rounds N] [--gap MS] "
                 "[-- FLAG…]\n";
    return 2;
  }
  std::vector<std::string> texts;
  std::ifstream file(arguments[3]);
  for (std::string line; std::getline(file, line);) texts.push_back(line);
  if (texts.empty()) throw Failure{"no texts"};

  const Tasukid server(flags);
  Client client = Check(Client::Connect(server.address()));
  const std::string job = StartTraining(client, arguments[1], arguments[2]);
  const pid_t trainer = server.Trainer();
  const int64_t steps_before = Check(client.GetTrainingJob(job)).progress().step();
  Caller caller = {client, texts, Milliseconds(gap)};
  Latencies quiet, training, unused;
  double processor = 0, seconds = 0;
  for (int round = 0; round < rounds; ++round) {
    kill(-trainer, SIGSTOP);
    caller.Call(0, 5, unused);
    caller.Call(round * calls, calls, quiet);
    kill(-trainer, SIGCONT);
    caller.Call(0, 5, unused);
    const auto begin = Clock::now();
    const double had = ProcessorSeconds(trainer);
    caller.Call(round * calls, calls, training);
    processor += ProcessorSeconds(trainer) - had;
    seconds += std::chrono::duration<double>(Clock::now() - begin).count();
  }
  const v1::TrainingJob after = Check(client.GetTrainingJob(job));
  Check(client.CancelTrainingJob(job).status());
  std::printf(
      "{\"what\": \"latency\", \"gap_ms\": %.0f, \"quiet\": %s, \"training\": %s, \"p50_ratio\": "
      "%.3f, \"p99_ratio\": %.3f, \"trainer_cores\": %.2f, \"trainer_steps\": %lld}\n",
      gap, quiet.Json().c_str(), training.Json().c_str(), training.At(.5) / quiet.At(.5),
      training.At(.99) / quiet.At(.99), processor / seconds,
      static_cast<long long>(after.progress().step() - steps_before));
  return 0;
}

}  // namespace
}  // namespace tasuki

int main(int count, char** arguments) {
  try {
    return tasuki::Run(count, arguments);
  } catch (const tasuki::Failure& failure) {
    std::cerr << "bench-latency: " << failure.what << "\n";
    return 1;
  }
}
