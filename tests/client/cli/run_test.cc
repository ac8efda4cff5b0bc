// Runs the built `tasuki` against a server that answers from scripts.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "client/sha256.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "tests/client/fake_server.h"

namespace tasuki::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::string Read(const std::string& path) {
  std::ostringstream bytes;
  bytes << std::ifstream(path, std::ios::binary).rdbuf();
  return bytes.str();
}

class Command {
 public:
  // Starts `tasuki ARGUMENTS…` with these bytes on stdin, or with `pipe` as stdin.
  Command(const FakeServer& server, std::vector<std::string> arguments,
          const std::string& input = "", const std::string& output = "", int pipe = -1) {
    std::ofstream(scratch_ / "in") << input;
    arguments.insert(arguments.begin(), TASUKI_BINARY_DIR "/bin/tasuki");
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const std::string environment = "TASUKI_SERVER=" + server.address();
    char* envp[] = {const_cast<char*>(environment.c_str()), nullptr};
    const std::string in = scratch_ / "in", err = scratch_ / "err";
    const std::string out = output.empty() ? scratch_ / "out" : output;
    pid_ = vfork();
    if (pid_ == 0) {
      dup2(pipe >= 0 ? pipe : open(in.c_str(), O_RDONLY), 0);
      dup2(open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 1);
      dup2(open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 2);
      execve(argv[0], argv.data(), envp);
      _exit(127);
    }
  }
  ~Command() { exit_code(); }

  int exit_code() {
    if (pid_ > 0) {
      int status = 0;
      waitpid(pid_, &status, 0);
      pid_ = 0;
      code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    }
    return code_;
  }
  std::string out() { return exit_code(), Read(scratch_ / "out"); }
  std::string err() { return exit_code(), Read(scratch_ / "err"); }
  std::string out_by_now() const { return Read(scratch_ / "out"); }
  void Interrupt() const { kill(pid_, SIGINT); }

 private:
  ScratchDirectory scratch_;
  pid_t pid_ = 0;
  int code_ = -1;
};

// A server with one job, which ended so.
void ScriptJob(FakeServer& server, v1::TrainingJob::State state) {
  v1::TrainingJob job;
  job.set_name("trainingJobs/nightly");
  server.create_job = [job](int, const auto&, v1::TrainingJob* answer) {
    *answer = job;
    answer->set_state(v1::TrainingJob::QUEUED);
    return grpc::Status::OK;
  };
  server.watch_job = [](int, const v1::WatchTrainingJobRequest& request, auto&, auto& writer) {
    for (int64_t i = request.from_sequence(); i <= 3; ++i) writer.Write(MessageEvent(i));
    return grpc::Status::OK;
  };
  job.set_state(state);
  if (state == v1::TrainingJob::SUCCEEDED) {
    job.set_model_version("models/m/versions/1");
    auto* evaluation = job.add_evaluations();
    evaluation->set_task("sentiment");
    evaluation->set_macro_f1(.8765);
  }
  if (state == v1::TrainingJob::FAILED) {
    job.mutable_error()->set_code(13);
    job.mutable_error()->set_message("the trainer died three times\nlast line");
  }
  server.get_job = [job](int, const auto&, v1::TrainingJob* answer) {
    *answer = job;
    return grpc::Status::OK;
  };
}

const std::vector<std::string> kSubmitAndWait = {
    "job",   "submit",    "--file", TASUKI_SOURCE_DIR "/client/cli/examples/pretrain-tiny.yaml",
    "--set", "TEXTS=d-1", "--wait"};

TEST(Run, ExitsWithTwoForAWrongCommandLine) {
  FakeServer server;
  const std::vector<std::string> lines[] = {
      {},
      {"job"},
      {"nonsense"},
      {"job", "get"},
      {"job", "get", "a/b/c"},
      {"job", "get", "a", "--nonsense"},
      {"--output", "xml", "server", "info"},
      {"--server", "nowhere", "server", "info"},
      {"dataset", "upload", "rows.bin"},
      {"dataset", "upload", "-"},
      {"model", "delete", "reviews"},
      {"classify", "text"},
      {"classify", "--model", "m", "--file", "in.txt", "text"},
      {"classify", "--model", "m", "--format", "xml", "text"},
      {"classify", "--model", "m", "--top-k", "0", "text"},
      {"classify", "--model", "m", "--truncation", "tail", "text"},
      {"classify", "--model", "m", "--out-format", "tsv", "text"},
      {"classify", "--model", "m", "--out", "out.xlsx", "text"},
      {"alias", "show", "--help"},
      {"model", "evaluate", "m@1", "--task", "t"},
      {"model", "evaluate", "m@1", "--task", "t", "--task", "u", "--dataset", "d-1"},
      {"job", "submit", "--file", "job.yaml", "--set", "NOTHING"},
      {"job", "estimate", "--file", "job.yaml", "--set", "NOTHING"},
      {"token", "create", "--name", "a"},
      {"token", "create", "--name", "a", "--role", "owner"},
      {"token", "create", "--name", "a b", "--role", "read"},
      {"--token", "secret", "server", "info"},
      {"--token-file", "/nothing/here", "server", "info"},
      {"--tls-ca", "/nothing/here", "server", "info"},
  };
  for (const auto& line : lines) {
    Command command(server, line);
    EXPECT_EQ(command.exit_code(), 2) << testing::PrintToString(line) << command.err();
    EXPECT_THAT(command.err(), testing::StartsWith("tasuki: "));
    EXPECT_THAT(command.out(), IsEmpty());
  }
}

TEST(Run, MakesATokenAndTheLineWithItsHash) {
  FakeServer server;
  const std::vector<std::string> create = {"token", "create", "--name",
                                           "app1",  "--role", "classify"};
  std::vector<std::string> as_json = create;
  as_json.insert(as_json.begin(), {"--output", "json"});
  std::set<std::string> tokens;
  for (int i = 0; i < 2; ++i) {
    Command command(server, as_json);
    ASSERT_EQ(command.exit_code(), 0) << command.err();
    const auto made = nlohmann::json::parse(command.out());
    const std::string token = made["token"];
    EXPECT_THAT(token, testing::MatchesRegex("tasuki_[A-Za-z0-9_-]{43,44}=?"));
    client::Sha256 hash;
    hash.Update(token);
    EXPECT_EQ(made["line"], "app1 classify sha256:" + hash.Finish());
    tokens.insert(token);
  }
  EXPECT_EQ(tokens.size(), 2) << "every one is new";
  Command command(server, create);
  EXPECT_THAT(command.out(), HasSubstr("app1 classify sha256:"));
  EXPECT_THAT(command.err(), IsEmpty());
}

TEST(Run, SaysByItsExitCodeWhetherTheServerServes) {
  struct Health : grpc::health::v1::Health::Service {
    grpc::Status Check(grpc::ServerContext*, const grpc::health::v1::HealthCheckRequest* request,
                       grpc::health::v1::HealthCheckResponse* answer) override {
      EXPECT_EQ(request->service(), "") << "the whole server";
      answer->set_status(serves ? grpc::health::v1::HealthCheckResponse::SERVING
                                : grpc::health::v1::HealthCheckResponse::NOT_SERVING);
      ++asked;
      return grpc::Status::OK;
    }
    std::atomic<bool> serves = true;
    std::atomic<int> asked = 0;
  } health;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&health);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  FakeServer other;
  const std::vector<std::string> ask = {"--server", "127.0.0.1:" + std::to_string(port), "server",
                                        "health"};
  Command serving(other, ask);
  EXPECT_EQ(serving.exit_code(), 0) << serving.err();
  EXPECT_EQ(serving.out(), "serving\n");
  health.serves = false;
  Command not_serving(other, ask);
  EXPECT_EQ(not_serving.exit_code(), 1);
  EXPECT_THAT(not_serving.err(), HasSubstr("does not serve"));
  EXPECT_EQ(health.asked, 2) << "once each";
  server->Shutdown();
  Command gone(other, ask);
  EXPECT_EQ(gone.exit_code(), 1);
  EXPECT_THAT(gone.err(), HasSubstr("no Tasuki server answers"));
}

TEST(Run, TakesFlagsOfTheConnectionWithHyphensAndAsTheServerSpellsThem) {
  FakeServer server;
  const struct {
    std::vector<std::string> flags;
    const char* fault;
  } cases[] = {{{"--token-file", "/nothing/here"}, "no token can be read from /nothing/here"},
               {{"--token_file", "/nothing/here"}, "no token can be read from /nothing/here"},
               {{"--tls-ca", "/nothing/here"}, "/nothing/here cannot be read"},
               {{"--tls_ca", "/nothing/here"}, "/nothing/here cannot be read"},
               {{"--tls-certificate", "c"}, "go together"},
               {{"--tls_certificate", "c"}, "go together"},
               {{"--tls-key", "k"}, "go together"},
               {{"--tls_key", "k"}, "go together"}};
  for (const auto& [flags, fault] : cases) {
    std::vector<std::string> line = {"server", "info"};
    line.insert(line.end(), flags.begin(), flags.end());
    EXPECT_THAT(Command(server, line).err(), HasSubstr(fault)) << flags[0];
  }
}

TEST(Run, SendsNoTokenInTheClearToAnotherMachine) {
  FakeServer server;
  const std::string file = testing::TempDir() + "token." + std::to_string(getpid());
  std::ofstream(file) << "tasuki_secret\n";
  Command command(server, {"--server", "192.0.2.1:8500", "--token-file", file, "server", "info"});
  EXPECT_EQ(command.exit_code(), 2);
  EXPECT_THAT(command.err(), AllOf(HasSubstr("in the clear"), Not(HasSubstr("tasuki_secret"))));
  std::remove(file.c_str());
}

TEST(Run, HelpsEveryCommandWithAnExample) {
  FakeServer server;
  const std::vector<std::string> lines[] = {
      {"dataset", "upload"}, {"dataset", "list"},    {"dataset", "get"},    {"dataset", "inspect"},
      {"dataset", "check"},  {"dataset", "delete"},  {"job", "submit"},     {"dataset", "delete"},
      {"job", "list"},       {"job", "get"},         {"job", "watch"},      {"job", "logs"},
      {"job", "compare"},    {"job", "predictions"}, {"job", "cancel"},     {"job", "pause"},
      {"job", "resume"},     {"job", "finish"},      {"job", "retry"},      {"job", "delete"},
      {"model", "import"},   {"model", "export"},    {"model", "list"},     {"model", "get"},
      {"model", "load"},     {"model", "unload"},    {"model", "evaluate"}, {"model", "delete"},
      {"server", "info"},    {"token", "create"},    {"classify"},          {}};
  for (std::vector<std::string> line : lines) {
    line.push_back("--help");
    Command command(server, line);
    EXPECT_EQ(command.exit_code(), 0);
    EXPECT_THAT(command.out(), testing::ContainsRegex("Examples?: tasuki ")) << line[0];
  }
  EXPECT_THAT(Command(server, {"--version"}).out(), testing::MatchesRegex("tasuki [0-9.]+\n"));
}

TEST(Run, SaysWhatItDidNotExpect) {
  FakeServer server;
  EXPECT_EQ(Command(server, {"server", "info", "--model-memory-mb", "3"}).err(),
            "tasuki: not expected: --model-memory-mb 3\nTry --help after the command.\n");
  for (const std::vector<std::string>& line :
       {std::vector<std::string>{"alias", "show"}, {"alias", "show", "--help"}}) {
    EXPECT_EQ(Command(server, line).err(),
              "tasuki: there is no command \"show\"\nTry --help after the command.\n");
  }
  EXPECT_THAT(Command(server, {"alias", "--help"}).out(),
              AllOf(HasSubstr("rollback"), Not(HasSubstr("Example"))));
  EXPECT_THAT(Command(server, {"classify", "--help"}).out(),
              AllOf(HasSubstr("[TEXTS...] \n"), HasSubstr("reviews@production")));
}

TEST(Run, TellsTheEndOfAJobByItsExitCode) {
  for (const auto& [state, code] : {std::pair{v1::TrainingJob::SUCCEEDED, 0},
                                    {v1::TrainingJob::FAILED, 1},
                                    {v1::TrainingJob::CANCELLED, 1},
                                    {v1::TrainingJob::PAUSED, 1}}) {
    FakeServer server;
    ScriptJob(server, state);
    for (const auto& line : {kSubmitAndWait, {"job", "watch", "nightly"}}) {
      Command command(server, line);
      EXPECT_EQ(command.exit_code(), code) << v1::TrainingJob::State_Name(state) << command.err();
      EXPECT_THAT(command.out(), HasSubstr("event 1\n"));
      if (state == v1::TrainingJob::SUCCEEDED) {
        EXPECT_THAT(command.out(), HasSubstr("0.8765"));
        EXPECT_THAT(command.out(), HasSubstr("models/m/versions/1"));
      }
      if (state == v1::TrainingJob::FAILED) {
        EXPECT_THAT(command.err(), HasSubstr("died three times\nlast line\n  (INTERNAL)"));
      }
    }
  }
}

TEST(Run, PromisesNoCheckpointOfAnEvaluation) {
  FakeServer server;
  server.pause_job = [](int, const v1::PauseTrainingJobRequest& request, v1::TrainingJob* answer) {
    answer->set_name(request.name());
    answer->set_state(v1::TrainingJob::RUNNING);
    answer->set_pause_requested(true);
    if (request.name() == "trainingJobs/eval") answer->mutable_evaluation();
    return grpc::Status::OK;
  };
  EXPECT_EQ(Command(server, {"job", "pause", "nightly"}).out(),
            "trainingJobs/nightly is RUNNING and was asked to write a checkpoint and pause\n");
  EXPECT_EQ(Command(server, {"job", "pause", "eval"}).out(),
            "trainingJobs/eval is RUNNING and was asked to pause; resumed, it begins anew\n");
}

TEST(Run, FailsIfItsOutputCannotBeWritten) {
  FakeServer server;
  ScriptJob(server, v1::TrainingJob::SUCCEEDED);
  const std::vector<std::vector<std::string>> commands = {
      {"--version"}, {"job", "get", "nightly"}, {"job", "get", "nightly", "--output", "json"}};
  for (const auto& arguments : commands) {
    Command command(server, arguments, "", "/dev/full");
    EXPECT_EQ(command.exit_code(), 1);
    EXPECT_THAT(command.err(), testing::StartsWith("tasuki: the output cannot be written\n"));
  }
}

TEST(Run, PrintsOneDocumentOrOneALine) {
  FakeServer server;
  ScriptJob(server, v1::TrainingJob::SUCCEEDED);
  auto submit = kSubmitAndWait;
  submit.insert(submit.begin(), {"--output", "json"});
  EXPECT_EQ(nlohmann::json::parse(Command(server, submit).out())["state"], "SUCCEEDED");
  const auto compared = nlohmann::json::parse(
      Command(server, {"job", "compare", "nightly", "nightly", "--output", "json"}).out());
  EXPECT_EQ(compared["training_jobs"][1]["evaluations"][0]["macro_f1"], .8765);

  std::istringstream watched(
      Command(server, {"job", "watch", "nightly", "--output", "json", "--from", "2"}).out());
  std::vector<std::string> sequences;
  for (std::string line; std::getline(watched, line);) {
    sequences.push_back(nlohmann::json::parse(line)["sequence"]);
  }
  EXPECT_THAT(sequences, testing::ElementsAre("2", "3"));
}

TEST(Run, LeavesTheJobRunningWhenAWatchIsInterrupted) {
  FakeServer server;
  ScriptJob(server, v1::TrainingJob::RUNNING);
  std::atomic<bool> watching{false};
  server.watch_job = [&](int, const auto&, grpc::ServerContext& context, auto& writer) {
    writer.Write(MessageEvent(1));
    watching = true;
    while (!context.IsCancelled()) std::this_thread::yield();
    return grpc::Status::CANCELLED;
  };
  Command command(server, {"job", "watch", "nightly"});
  while (!watching) std::this_thread::yield();
  command.Interrupt();
  EXPECT_EQ(command.exit_code(), 130);
  EXPECT_THAT(command.err(), HasSubstr("tasuki job watch nightly --from "));
}

TEST(Run, PrintsTheFaultsOfARequestOneALine) {
  FakeServer server;
  server.create_job = [](int, const auto&, auto*) {
    google::rpc::BadRequest faults;
    for (const char* field : {"model", "pretraining.datasets[0]"}) {
      auto* violation = faults.add_field_violations();
      violation->set_field(field);
      violation->set_description("is \x1b[31mwrong");
    }
    return ServerError(grpc::StatusCode::INVALID_ARGUMENT, "all; and 3 more", "FIELD_INVALID",
                       faults);
  };
  Command command(server, kSubmitAndWait);
  EXPECT_EQ(command.exit_code(), 1);
  EXPECT_EQ(command.err(),
            "tasuki: the server refused the request:\n"
            "  model: is  [31mwrong\n"
            "  pretraining.datasets[0]: is  [31mwrong\n"
            "  and 3 more\n"
            "  (INVALID_ARGUMENT, FIELD_INVALID)\n");
  EXPECT_THAT(command.out(), IsEmpty());
}

TEST(Run, UploadsWithTheFormatOfTheFilesName) {
  FakeServer server;
  FakeServer::Received received;
  server.upload_dataset = [&](int, const FakeServer::Received& upload, v1::Dataset* answer) {
    received = upload;
    answer->set_name("datasets/d-1");
    return grpc::Status::OK;
  };
  ScratchDirectory scratch;
  std::ofstream(scratch / "学習.tsv") << "text\tlabel\n良い\t1\n";
  Command command(server, {"--output", "json", "dataset", "upload", scratch / "学習.tsv",
                           "--label-column", "label", "--quoting", "none"});
  EXPECT_EQ(command.exit_code(), 0) << command.err();
  EXPECT_EQ(nlohmann::json::parse(command.out())["name"], "datasets/d-1");
  EXPECT_THAT(command.err(), IsEmpty());  // no progress bar in a pipe
  EXPECT_EQ(received.dataset.display_name(), "学習");
  EXPECT_EQ(received.dataset.format().kind(), v1::DatasetFormat::TSV);
  EXPECT_EQ(received.dataset.format().quoting(), v1::DatasetFormat::NONE);
  EXPECT_EQ(received.dataset.format().label_column(), "label");
  EXPECT_EQ(received.bytes, "text\tlabel\n良い\t1\n");

  Command from_stdin(server, {"dataset", "upload", "-", "--format", "jsonl", "--texts-only"},
                     "{\"text\":\"a\"}\n");
  EXPECT_EQ(from_stdin.exit_code(), 0) << from_stdin.err();
  EXPECT_EQ(received.bytes, "{\"text\":\"a\"}\n");
  EXPECT_TRUE(received.dataset.format().texts_only());
}

TEST(Run, UploadsWithMappedValuesAndWithoutHeader) {
  FakeServer server;
  FakeServer::Received received;
  server.upload_dataset = [&](int, const FakeServer::Received& upload, v1::Dataset*) {
    received = upload;
    return grpc::Status::OK;
  };
  ScratchDirectory scratch;
  std::ofstream(scratch / "stars.csv") << "良い,5\n";
  Command command(server, {"dataset", "upload", scratch / "stars.csv", "--no-header", "--map",
                           "1=negative", "--map", "5=a=b"});
  EXPECT_EQ(command.exit_code(), 0) << command.err();
  EXPECT_TRUE(received.dataset.format().no_header());
  EXPECT_EQ(received.dataset.format().value_mapping().at("1"), "negative");
  EXPECT_EQ(received.dataset.format().value_mapping().at("5"), "a=b");
  for (const char* map : {"1", "1="}) {
    EXPECT_EQ(
        Command(server, {"dataset", "upload", scratch / "stars.csv", "--map", map}).exit_code(), 2);
  }
  EXPECT_EQ(
      Command(server, {"dataset", "upload", scratch / "stars.csv", "--map", "1=a", "--map", "1=b"})
          .exit_code(),
      2);
}

TEST(Run, ChecksAFileAndFailsIfARowIsBad) {
  FakeServer server;
  server.check_dataset = [&](int call, const FakeServer::Received& upload,
                             v1::CheckDatasetResponse* answer) {
    EXPECT_EQ(upload.bytes, "text\n良い\n");
    answer->mutable_dataset()->set_row_count(1);
    if (call == 1) return grpc::Status::OK;
    answer->set_bad_row_count(1200);
    auto& row = *answer->add_bad_rows();
    row.set_row(7);
    row.set_line(9);
    row.set_column("\"label\"");
    row.set_cause("is empty");
    return grpc::Status::OK;
  };
  ScratchDirectory scratch;
  std::ofstream(scratch / "a.tsv") << "text\n良い\n";
  const std::vector<std::string> line = {"dataset", "check", scratch / "a.tsv"};
  EXPECT_EQ(Command(server, line).exit_code(), 0);
  Command bad(server, line);
  EXPECT_EQ(bad.exit_code(), 1);
  EXPECT_THAT(bad.out(), AllOf(HasSubstr("\"label\""), HasSubstr("and 1,199 more")));
  EXPECT_THAT(bad.err(), HasSubstr("1,200 rows are malformed"));
  Command json(server, {"--output", "json", "dataset", "check", scratch / "a.tsv"});
  EXPECT_EQ(json.exit_code(), 1);
  EXPECT_EQ(nlohmann::json::parse(json.out())["bad_row_count"], "1200");
}

TEST(Run, InspectsSeveralDatasetsAtOnce) {
  FakeServer server;
  v1::InspectDatasetRequest asked;
  server.inspect_dataset = [&](int, const v1::InspectDatasetRequest& request,
                               v1::InspectDatasetResponse* answer) {
    asked = request;
    answer->add_examples()->set_text("良い");
    for (const char* name : {"datasets/d-1", "datasets/d-2"}) {
      auto& report = *answer->add_reports();
      report.mutable_dataset()->set_name(name);
      report.mutable_token_lengths()->set_p95(77);
      report.set_conflicting_row_count(30);
      report.add_conflicts()->set_text("同じ");
    }
    auto& overlap = *answer->add_overlaps();
    overlap.set_dataset("datasets/d-1");
    overlap.set_other_dataset("datasets/d-2");
    overlap.set_row_count(3);
    return grpc::Status::OK;
  };
  Command command(server, {"dataset", "inspect", "d-1", "d-2", "--model-version", "base@3",
                           "--prefix", "p: ", "--max-input-tokens", "64"});
  EXPECT_EQ(command.exit_code(), 0) << command.err();
  EXPECT_TRUE(asked.report());
  EXPECT_EQ(asked.name(), "datasets/d-1");
  EXPECT_EQ(asked.other_datasets(0), "datasets/d-2");
  EXPECT_EQ(asked.model_version(), "models/base/versions/3");
  EXPECT_EQ(asked.prefix(), "p: ");
  EXPECT_EQ(asked.max_input_tokens(), 64);
  EXPECT_THAT(command.out(),
              AllOf(HasSubstr("良い"), HasSubstr("77"), HasSubstr("同じ"), HasSubstr("and 29 more"),
                    HasSubstr("3 rows of d-2 are also in d-1")));
}

TEST(Run, EstimatesAJobOfAFile) {
  FakeServer server;
  v1::EstimateTrainingJobRequest asked;
  server.estimate_job = [&](int, const v1::EstimateTrainingJobRequest& request,
                            v1::EstimateTrainingJobResponse* answer) {
    asked = request;
    answer->set_steps(1234);
    answer->set_measured_steps(20);
    answer->mutable_training_duration()->set_seconds(80);
    answer->mutable_memory()->set_peak_bytes(3 << 20);
    answer->add_notes("Times rest on 20 steps.");
    return grpc::Status::OK;
  };
  ScratchDirectory scratch;
  std::ofstream(scratch / "job.yaml") << "model: m\npretraining:\n  datasets: [\"${D}\"]\n";
  Command command(server, {"job", "estimate", "--file", scratch / "job.yaml", "--set", "D=d-1"});
  EXPECT_EQ(command.exit_code(), 0) << command.err();
  EXPECT_EQ(asked.training_job().pretraining().datasets(0), "datasets/d-1");
  EXPECT_THAT(command.out(), AllOf(HasSubstr("1,234"), HasSubstr("1 min 20 s"),
                                   HasSubstr("3.0 MiB"), HasSubstr("Times rest on 20 steps.")));
}

// Numbers of texts of the requests that came. Thread-safe.
class Sizes {
 public:
  void Add(int size) {
    absl::MutexLock lock(&mutex_);
    sizes_.push_back(size);
  }
  std::vector<int> get() const {
    absl::MutexLock lock(&mutex_);
    return sizes_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::vector<int> sizes_ ABSL_GUARDED_BY(mutex_);
};

// Answers each text with its own number of bytes as the label.
void ScriptClassify(FakeServer& server, Sizes* sizes = nullptr) {
  server.classify = [=](int, const v1::ClassifyRequest& request, v1::ClassifyResponse* answer) {
    if (sizes != nullptr) sizes->Add(request.texts_size());
    if (request.model() == "models/none") {
      return ServerError(grpc::StatusCode::NOT_FOUND, "no such model", "RESOURCE_NOT_FOUND");
    }
    answer->set_model_version("models/m/versions/7");
    for (const auto& text : request.texts()) {
      auto* prediction = answer->add_results()->add_predictions();
      prediction->set_task(request.tasks_size() > 0 ? request.tasks(0) : "length");
      prediction->set_label(std::to_string(text.size()));
      prediction->add_scores()->set_probability(.5);
      prediction->set_truncated(text.size() > 5);
    }
    return grpc::Status::OK;
  };
}

TEST(Run, ClassifiesTextsIntoATable) {
  FakeServer server;
  ScriptClassify(server);
  Command command(server,
                  {"classify", "--model", "m", "--task", "t", "--", "良い", "dataset", "-x"});
  EXPECT_EQ(command.exit_code(), 0) << command.err();
  EXPECT_EQ(command.out(),
            "TEXT     TASK  LABEL  PROBABILITY\n"
            "良い     t     6           0.5000  truncated\n"
            "dataset  t     7           0.5000  truncated\n"
            "-x       t     2           0.5000\n");
  Command late_mark(server, {"classify", "--model", "m", "x", "--", "-y", "dataset"});
  EXPECT_EQ(late_mark.exit_code(), 0) << late_mark.err();
  EXPECT_THAT(late_mark.out(),
              AllOf(HasSubstr("\nx  "), HasSubstr("\n-y "), HasSubstr("\ndataset ")));
  Command missing(server, {"classify", "--model", "none", "x"});
  EXPECT_EQ(missing.exit_code(), 1);
  EXPECT_EQ(missing.err(), "tasuki: no such model\n  (NOT_FOUND, RESOURCE_NOT_FOUND)\n");
}

TEST(Run, ClassifiesAFileOfAnyLengthIntoJsonLines) {
  FakeServer server;
  Sizes sizes;
  ScriptClassify(server, &sizes);
  ScratchDirectory scratch;
  std::string input;
  for (int i = 0; i < 600; ++i) input += std::string(i % 9, 'x') + "\r\n";
  Command command(server, {"classify", "--model", "m@7", "--out", scratch / "out.jsonl"}, input);
  EXPECT_EQ(command.exit_code(), 0) << command.err();
  EXPECT_THAT(sizes.get(), testing::UnorderedElementsAre(256, 256, 88));
  std::ifstream out(scratch / "out.jsonl");
  int count = 0;
  for (std::string line; std::getline(out, line); ++count) {
    const auto json = nlohmann::json::parse(line);
    EXPECT_EQ(json["text"], std::string(count % 9, 'x'));
    EXPECT_EQ(json["model_version"], "models/m/versions/7");
    EXPECT_EQ(json["predictions"][0]["label"], std::to_string(count % 9));
  }
  EXPECT_EQ(count, 600);
  // What was written can be read again.
  Command again(server,
                {"classify", "--model", "m", "--file", scratch / "out.jsonl", "--output", "json"});
  EXPECT_EQ(nlohmann::json::parse(again.out())["results"].size(), 600) << again.err();
}

TEST(Run, NamesTheTextThatIsNotUtf8) {
  FakeServer server;
  Sizes sizes;
  ScriptClassify(server, &sizes);
  Command argument(server, {"classify", "--model", "m", "good", "\x83\x65\x83\x58"});
  EXPECT_EQ(argument.exit_code(), 1);
  EXPECT_EQ(argument.err(),
            "tasuki: text 2 is not UTF-8; convert it first\n  (INVALID_ARGUMENT)\n");
  Command line(server, {"classify", "--model", "m"}, "good\n\x83\x65\x83\x58\n");
  EXPECT_EQ(line.exit_code(), 1);
  EXPECT_THAT(line.err(), HasSubstr("stdin:2 is not UTF-8"));
  EXPECT_THAT(sizes.get(), IsEmpty()) << "nothing was sent";
}

TEST(Run, AFlagWithoutAValueDoesNotTakeTheNextArgumentForIt) {
  FakeServer server;
  Command command(server, {"--output=", "server", "info"});
  EXPECT_EQ(command.exit_code(), 2);
  EXPECT_EQ(command.err(), "tasuki: --output= has no value; give one, or leave the flag out.\n");
}

TEST(Run, ClassifiesAColumnOfAFileIntoATable) {
  FakeServer server;
  ScriptClassify(server);
  ScratchDirectory scratch;
  std::ofstream(scratch / "in.csv") << "id,review\n1,\"a\tb\nc\"\n2,longer\n";
  const std::string expected =
      "row\ttask\tlabel\tprobability\tabstained\ttruncated\tmodel_version\ttext\n"
      "1\tlength\t5\t0.5\tfalse\tfalse\tmodels/m/versions/7\ta b c\n"
      "2\tlength\t6\t0.5\tfalse\ttrue\tmodels/m/versions/7\tlonger\n";
  Command file(server, {"classify", "--model", "m", "--file", scratch / "in.csv", "--text-column",
                        "review", "--out", scratch / "out.tsv"});
  EXPECT_EQ(file.exit_code(), 0) << file.err();
  EXPECT_EQ(Read(scratch / "out.tsv"), expected);
  EXPECT_EQ(file.out(),
            "2 texts classified by models/m/versions/7 into " + (scratch / "out.tsv") + "\n");
  Command stream(server, {"classify", "--model", "m", "--file", scratch / "in.csv", "--text-column",
                          "review", "--out", "-", "--out-format", "tsv"});
  EXPECT_EQ(stream.out(), expected) << stream.err();
  Command column(server, {"classify", "--model", "m", "--file", scratch / "in.csv"});
  EXPECT_EQ(column.exit_code(), 1);
  EXPECT_THAT(column.err(), HasSubstr("has no column \"text\"; its columns are id, review"));
}

TEST(Run, KeepsTheOrderOfTextsWhateverIsAnsweredFirst) {
  FakeServer server;
  Sizes sizes;
  ScriptClassify(server, &sizes);
  server.classify = [answer = server.classify](int call, const auto& request, auto* response) {
    if (call == 3) {
      // The queue is full of the others.
      return ServerError(grpc::StatusCode::RESOURCE_EXHAUSTED, "full", "QUEUE_FULL", {}, 0);
    }
    if (call == 2) absl::SleepFor(absl::Milliseconds(100));
    return answer(call, request, response);
  };
  std::string input;
  for (int i = 0; i < 1500; ++i) input += std::string(i % 11, 'x') + "\n";
  Command command(server, {"classify", "--model", "m", "--out", "-"}, input);
  EXPECT_EQ(command.exit_code(), 0) << command.err();
  std::istringstream out(command.out());
  int count = 0;
  for (std::string line; std::getline(out, line); ++count) {
    ASSERT_EQ(nlohmann::json::parse(line)["text"], std::string(count % 11, 'x')) << count;
  }
  EXPECT_EQ(count, 1500);
  EXPECT_THAT(command.err(), HasSubstr("tasuki: trying again: full\n"));
}

TEST(Run, ClassifiesOnWhenTheVersionThatAnsweredIsTakenOutOfService) {
  FakeServer server;
  ScriptClassify(server);
  server.classify = [answer = server.classify](int call, const auto& request, auto* response) {
    if (call > 2 && request.model() == "models/m/versions/7") {
      return ServerError(grpc::StatusCode::FAILED_PRECONDITION, "it is not loaded",
                         "MODEL_NOT_LOADED");
    }
    const grpc::Status status = answer(call, request, response);
    if (call > 2) response->set_model_version("models/m/versions/8");
    return status;
  };
  std::string input;
  for (int i = 0; i < 1500; ++i) input += std::to_string(i) + "\n";
  ScratchDirectory scratch;
  Command alias(server, {"classify", "--model", "m@production", "--out", scratch / "a.jsonl"},
                input);
  EXPECT_EQ(alias.exit_code(), 0) << alias.err();
  EXPECT_EQ(alias.out(),
            "1,500 texts classified by models/m/versions/7, then models/m/versions/8 into " +
                (scratch / "a.jsonl") + "\n");
  EXPECT_THAT(alias.err(), HasSubstr("models/m/versions/7 is no longer in service"));
  std::ifstream out(scratch / "a.jsonl");
  int count = 0;
  for (std::string line; std::getline(out, line); ++count) {
    const auto json = nlohmann::json::parse(line);
    EXPECT_EQ(json["text"], std::to_string(count));
    EXPECT_EQ(json["model_version"], count < 512 ? "models/m/versions/7" : "models/m/versions/8")
        << count;
  }
  EXPECT_EQ(count, 1500);
  // Who asked for a version gets that one.
  Command version(server, {"classify", "--model", "m@7", "--out", "-"}, input);
  EXPECT_EQ(version.exit_code(), 1);
  EXPECT_THAT(version.err(), HasSubstr("MODEL_NOT_LOADED"));
}

TEST(Run, AnswersWhatAPipeHasGivenBeforeItWaitsForMore) {
  FakeServer server;
  ScriptClassify(server);
  int ends[2];
  ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
  Command command(server, {"classify", "--model", "m", "--out", "-"}, "", "", ends[0]);
  close(ends[0]);
  for (int lines = 1; lines <= 3; ++lines) {
    ASSERT_EQ(write(ends[1], "text\n", 5), 5);
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    std::string out;
    while (std::count(out.begin(), out.end(), '\n') < lines && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(5));
      out = command.out_by_now();
    }
    EXPECT_EQ(std::count(out.begin(), out.end(), '\n'), lines);
  }
  close(ends[1]);
  EXPECT_EQ(command.exit_code(), 0) << command.err();
}

TEST(Run, ChecksTheModelWhereThereIsNothingToClassify) {
  FakeServer server;
  ScriptClassify(server);
  Command known(server, {"classify", "--model", "m", "--out", "-", "--out-format", "tsv"});
  EXPECT_EQ(known.exit_code(), 0) << known.err();
  EXPECT_THAT(known.out(), testing::MatchesRegex("row\t[^\n]*\n"));
  Command unknown(server, {"classify", "--model", "none"});
  EXPECT_EQ(unknown.exit_code(), 1);
  EXPECT_THAT(unknown.err(), HasSubstr("no such model"));
}

TEST(Run, ShowsTheVersionThatAnAliasNames) {
  FakeServer server;
  server.get_alias = [](int, const v1::GetModelAliasRequest& request, v1::ModelAlias* answer) {
    EXPECT_EQ(request.name(), "models/m/aliases/production");
    answer->set_model_version("models/m/versions/3");
    return grpc::Status::OK;
  };
  server.get_version = [](int, const v1::GetModelVersionRequest& request,
                          v1::ModelVersion* answer) {
    answer->set_name(request.name());
    return grpc::Status::OK;
  };
  Command command(server, {"model", "get", "m@production"});
  EXPECT_EQ(command.exit_code(), 0) << command.err();
  EXPECT_THAT(command.out(), HasSubstr("models/m/versions/3"));
}

TEST(Run, AsksForWhatItsFlagsSay) {
  FakeServer server;
  ScriptClassify(server);
  std::vector<v1::ClassifyRequest> asked;
  server.classify = [&, answer = server.classify](int call, const auto& request, auto* response) {
    asked.push_back(request);
    return answer(call, request, response);
  };
  Command texts(server,
                {"classify", "--model", "m", "--top-k", "3", "--truncation", "head-and-tail", "x"});
  EXPECT_EQ(texts.exit_code(), 0) << texts.err();
  Command lines(server, {"classify", "--model", "m", "--truncation", "error"}, "x\n");
  EXPECT_EQ(lines.exit_code(), 0) << lines.err();
  ASSERT_EQ(asked.size(), 2);
  EXPECT_EQ(asked[0].top_k(), 3);
  EXPECT_EQ(asked[0].truncation(), v1::ClassifyRequest::HEAD_AND_TAIL);
  EXPECT_EQ(asked[0].priority(), v1::ClassifyRequest::INTERACTIVE);
  EXPECT_EQ(asked[1].top_k(), 0);
  EXPECT_EQ(asked[1].truncation(), v1::ClassifyRequest::ERROR);
  EXPECT_EQ(asked[1].priority(), v1::ClassifyRequest::BULK);
}

TEST(Run, EvaluatesAVersionAndKeepsItsPredictions) {
  FakeServer server;
  ScriptJob(server, v1::TrainingJob::SUCCEEDED);
  v1::EvaluationJob work;
  server.create_job = [&work, create = server.create_job](int call, const auto& request,
                                                          v1::TrainingJob* answer) {
    work = request.training_job().evaluation();
    EXPECT_EQ(request.training_job_id(), "nightly");
    return create(call, request, answer);
  };
  server.get_job = [get = server.get_job](int call, const auto& request, v1::TrainingJob* answer) {
    const grpc::Status status = get(call, request, answer);
    answer->clear_model_version();
    v1::Calibration& calibration = *answer->add_calibrations();
    calibration.set_task("sentiment");
    calibration.set_calibrated(true);
    calibration.set_temperature(1.25);
    calibration.mutable_before()->set_ece(.0625);
    calibration.mutable_after()->set_ece(.03125);
    calibration.mutable_after()->add_bins()->set_row_count(30);
    return status;
  };
  server.download_predictions = [](int, const auto&, auto& writer) {
    v1::DownloadPredictionsResponse part;
    part.set_size_bytes(3);
    part.set_chunk("{}\n");
    writer.Write(part);
    return grpc::Status::OK;
  };
  ScratchDirectory scratch;
  Command command(server, {"model", "evaluate", "m@3", "--task", "sentiment", "--dataset", "d-1",
                           "--task", "other", "--dataset", "d-2", "--id", "nightly",
                           "--predictions", scratch / "out.jsonl"});
  EXPECT_EQ(command.exit_code(), 0) << command.err();
  EXPECT_EQ(work.model_version(), "models/m/versions/3");
  EXPECT_TRUE(work.write_predictions());
  ASSERT_EQ(work.tasks_size(), 2);
  EXPECT_EQ(work.tasks(1).name(), "other");
  EXPECT_EQ(work.tasks(1).test_dataset(), "datasets/d-2");
  EXPECT_EQ(Read(scratch / "out.jsonl"), "{}\n");
  EXPECT_THAT(command.out(), HasSubstr("0.8765"));
  EXPECT_THAT(command.out(), HasSubstr("TASK       ROWS  TEMPERATURE"));
  EXPECT_THAT(command.out(), HasSubstr("0.0625    0.0312"));
  EXPECT_THAT(command.out(), Not(HasSubstr(" made ")));
  // Later, and compared.
  Command later(server, {"job", "predictions", "nightly", scratch / "later.jsonl"});
  EXPECT_EQ(later.exit_code(), 0) << later.err();
  EXPECT_EQ(Read(scratch / "later.jsonl"), "{}\n");
  Command compared(server, {"job", "compare", "nightly", "nightly"});
  EXPECT_THAT(compared.out(), HasSubstr("TASK       JOB      ROWS  TEMPERATURE"));
  // Without --wait it only says which job it is.
  Command unwatched(
      server, {"model", "evaluate", "m", "--task", "t", "--dataset", "d-1", "--id", "nightly"});
  EXPECT_EQ(unwatched.out(),
            "trainingJobs/nightly is QUEUED\nWatch it with: tasuki job watch nightly\n");
  EXPECT_FALSE(work.write_predictions());
}

TEST(Run, KeepsTheOldAnswersIfClassifyingFails) {
  FakeServer server;
  ScriptClassify(server);
  ScratchDirectory scratch;
  std::ofstream(scratch / "out.jsonl") << "old";
  Command command(server, {"classify", "--model", "none", "--out", scratch / "out.jsonl"}, "x\n");
  EXPECT_EQ(command.exit_code(), 1);
  EXPECT_EQ(Read(scratch / "out.jsonl"), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(scratch.path()), {}), 1);
}

}  // namespace
}  // namespace tasuki::cli
