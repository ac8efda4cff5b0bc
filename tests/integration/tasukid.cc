#include "tests/integration/tasukid.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

extern char** environ;

namespace tasuki {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPatience = std::chrono::seconds(60);  // far beyond what anything here takes
constexpr size_t kChunkBytes = 1 << 20;

// Ends the test, and on the way out of it what it started.
[[noreturn]] void Die(const std::string& sentence) { throw std::runtime_error(sentence); }

// Asks again and again until there is an answer: for what other processes do.
template <typename T>
T Await(const std::string& what, const std::function<std::optional<T>()>& ask) {
  for (const auto deadline = Clock::now() + kPatience; Clock::now() < deadline;) {
    if (std::optional<T> answer = ask()) return *answer;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  Die("Waited in vain for " + what);
}

std::string ReadAll(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

// Value of a string in the one flat object of the ready file.
std::string Field(const std::string& json, const std::string& name) {
  const size_t key = json.find("\"" + name + "\": \"");
  if (key == std::string::npos) Die("No " + name + " in " + json);
  const size_t begin = key + name.size() + 5;
  return json.substr(begin, json.find('"', begin) - begin);
}

pid_t Spawn(std::vector<std::string> words) {
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  pid_t pid = 0;
  const int error = posix_spawnp(&pid, argv[0], nullptr, nullptr, argv.data(), environ);
  if (error != 0) Die(words[0] + " cannot be started");
  return pid;
}

}  // namespace

TemporaryDirectory::TemporaryDirectory() {
  char path[] = "/tmp/tasuki_integration_XXXXXX";
  if (mkdtemp(path) == nullptr) Die("No directory can be made in /tmp");
  path_ = path;
}

TemporaryDirectory::~TemporaryDirectory() { std::filesystem::remove_all(path_); }

Tasukid::Tasukid(const Options& options) {
  // Not in the data directory: that may be a volume that only the server sees.
  const TemporaryDirectory ready;
  const std::string ready_file = ready.path() + "/ready.json";
  std::vector<std::string> words = options.wrapper;
  words.insert(words.end(), {TASUKI_BINARY_DIR "/bin/tasukid", "--data_dir=" + options.data_dir,
                             "--listen=127.0.0.1:0", "--metrics_listen=127.0.0.1:0",
                             "--ready_file=" + ready_file, "--training_threads=1",
                             "--serving_threads=1", "--log_level=warning"});
  words.insert(words.end(), options.flags.begin(), options.flags.end());
  pid_ = Spawn(words);
  std::string json;
  try {
    json = Await<std::string>("tasukid to serve", [&]() -> std::optional<std::string> {
      if (waitpid(pid_, nullptr, WNOHANG) != 0) Die("tasukid ended before it served");
      std::string text = ReadAll(ready_file);
      if (text.empty()) return std::nullopt;
      return text;
    });
  } catch (...) {
    kill(pid_, SIGKILL);  // the destructor will not come
    throw;
  }
  metrics_address_ = Field(json, "metrics_listen");
  listen_ = Field(json, "listen");
  const auto channel = grpc::CreateChannel(listen_, grpc::InsecureChannelCredentials());
  datasets = v1::DatasetService::NewStub(channel);
  training = v1::TrainingService::NewStub(channel);
  models = v1::ModelService::NewStub(channel);
  classification = v1::ClassificationService::NewStub(channel);
}

Tasukid::~Tasukid() {
  if (pid_ == 0) return;
  EXPECT_EQ(Terminate(), 0);
}

int Tasukid::Wait() {
  int status = 0;
  waitpid(pid_, &status, 0);
  pid_ = 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int Tasukid::Terminate() {
  kill(pid_, SIGTERM);
  return AwaitExit();
}

int Tasukid::AwaitExit() {
  // An idle client looks at its connection only every 5 s, and the server waits for it to be
  // closed.
  datasets.reset();
  training.reset();
  models.reset();
  classification.reset();
  return Wait();
}

void Tasukid::Kill() {
  kill(pid_, SIGKILL);
  Wait();
}

pid_t Tasukid::AwaitTrainer() const {
  return Await<pid_t>("a trainer", [this]() -> std::optional<pid_t> {
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      // "PID (COMMAND) STATE PARENT …"
      std::istringstream stat(ReadAll(entry.path() / "stat"));
      pid_t pid = 0, parent = 0;
      std::string command, state;
      if (stat >> pid >> command >> state >> parent && parent == pid_ && state != "Z" &&
          command == "(tasuki-trainer)") {
        return pid;
      }
    }
    return std::nullopt;
  });
}

std::string Tasukid::Metrics() const {
  const size_t colon = metrics_address_.rfind(':');
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(std::stoi(metrics_address_.substr(colon + 1))));
  inet_pton(AF_INET, metrics_address_.substr(0, colon).c_str(), &address.sin_addr);
  const int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(connection, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    Die("No connection to " + metrics_address_);
  }
  const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
  std::string answer;
  if (write(connection, request.data(), request.size()) == ssize_t(request.size())) {
    char buffer[4096];
    for (ssize_t n; (n = read(connection, buffer, sizeof(buffer))) > 0;) answer.append(buffer, n);
  }
  close(connection);
  return answer;
}

grpc::Status Tasukid::Upload(const v1::UploadDatasetHeader& header, const std::string& bytes,
                             v1::Dataset* dataset) {
  grpc::ClientContext context;
  auto writer = datasets->UploadDataset(&context, dataset);
  v1::UploadDatasetRequest request;
  *request.mutable_header() = header;
  bool open = writer->Write(request);
  for (size_t at = 0; open && at < bytes.size(); at += kChunkBytes) {
    request.set_chunk(bytes.substr(at, kChunkBytes));
    open = writer->Write(request);
  }
  if (open) writer->WritesDone();
  return writer->Finish();
}

std::string Tasukid::UploadRows(const std::string& display_name, const std::string& rows) {
  v1::UploadDatasetHeader header;
  header.set_display_name(display_name);
  header.mutable_format()->set_kind(v1::DatasetFormat::TSV);
  v1::Dataset dataset;
  const grpc::Status status = Upload(header, "text\tlabel\n" + rows, &dataset);
  if (!status.ok()) Die("Upload of " + display_name + ": " + status.error_message());
  return dataset.name();
}

grpc::Status Tasukid::Create(const v1::TrainingJob& job, v1::TrainingJob* created) {
  grpc::ClientContext context;
  v1::CreateTrainingJobRequest request;
  *request.mutable_training_job() = job;
  return training->CreateTrainingJob(&context, request, created);
}

std::string Tasukid::Submit(const v1::TrainingJob& job) {
  v1::TrainingJob created;
  const grpc::Status status = Create(job, &created);
  if (!status.ok()) Die("Job: " + status.error_message());
  return created.name();
}

v1::TrainingJob Tasukid::GetJob(const std::string& name) {
  grpc::ClientContext context;
  v1::GetTrainingJobRequest request;
  request.set_name(name);
  v1::TrainingJob job;
  const grpc::Status status = training->GetTrainingJob(&context, request, &job);
  if (!status.ok()) Die(name + ": " + status.error_message());
  return job;
}

bool Tasukid::Watch(const std::string& name, int64_t from_sequence,
                    const std::function<bool(const v1::TrainingJobEvent&)>& wanted) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(2));
  v1::WatchTrainingJobRequest request;
  request.set_name(name);
  request.set_from_sequence(from_sequence);
  auto reader = training->WatchTrainingJob(&context, request);
  v1::WatchTrainingJobResponse response;
  for (int64_t sequence = from_sequence; reader->Read(&response); ++sequence) {
    EXPECT_EQ(response.event().sequence(), sequence);
    if (wanted(response.event())) {
      context.TryCancel();
      return true;
    }
  }
  return false;
}

v1::TrainingJob Tasukid::AwaitEnd(const std::string& name) {
  EXPECT_FALSE(Watch(name, 1, [](const v1::TrainingJobEvent&) { return false; }));
  return GetJob(name);
}

void Tasukid::AwaitLoaded(const std::string& model) {
  Await<bool>(model + " to be loaded", [&]() -> std::optional<bool> {
    v1::ClassifyResponse response;
    if (!Classify(model, {"a"}, &response).ok()) return std::nullopt;
    return true;
  });
}

grpc::Status Tasukid::Classify(const std::string& model, const std::vector<std::string>& texts,
                               v1::ClassifyResponse* response) {
  grpc::ClientContext context;
  v1::ClassifyRequest request;
  request.set_model(model);
  request.mutable_texts()->Assign(texts.begin(), texts.end());
  return classification->Classify(&context, request, response);
}

void AwaitDeath(pid_t pid) {
  Await<bool>("process " + std::to_string(pid) + " to end", [pid]() -> std::optional<bool> {
    const std::string stat = ReadAll("/proc/" + std::to_string(pid) + "/stat");
    if (!stat.empty() && stat.find(") Z ") == std::string::npos) return std::nullopt;
    return true;
  });
}

v1::ErrorReason ReasonOf(const grpc::Status& status) {
  google::rpc::Status details;
  google::rpc::ErrorInfo info;
  v1::ErrorReason reason = v1::ERROR_REASON_UNSPECIFIED;
  if (!details.ParseFromString(status.error_details())) return reason;
  for (const auto& detail : details.details()) {
    if (detail.UnpackTo(&info)) v1::ErrorReason_Parse(info.reason(), &reason);
  }
  return reason;
}

}  // namespace tasuki
