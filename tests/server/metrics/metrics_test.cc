#include "server/metrics/metrics.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "prometheus/text_serializer.h"
#include "server/metrics/device_collector.h"

namespace tasuki {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

ServedModel Sentiment() {
  ServedModel model;
  model.name = "models/sentiment/versions/3";
  model.memory_bytes = 1000;
  model.queue_limit_tokens = 64;
  model.tasks = {{"sentiment", {"negative", "positive"}}};
  return model;
}

// Every kind of series at once.
std::string TextOfEverything() {
  Metrics metrics;
  metrics.SetBuildInfo("0.1.0", "2.11.0");
  metrics.SetCompute("serving", "int8", "avx512", 2);
  metrics.WatchVolume("data", "/");
  metrics.SetCertificateExpiry(absl::Now());
  metrics.Method("unary", "tasuki.v1.TrainingService", "GetTrainingJob");
  auto model = metrics.ForModel(Sentiment());
  auto job = metrics.ForJob("trainingJobs/a");
  job->Observe({.step = 1, .total_steps = 2, .batch_size = 8, .examples_per_second = 1});
  job->SetScore("sentiment", "macro_f1", .5);
  job->CountCheckpoint(absl::Seconds(1));
  metrics.SetQueued("trainingJobs/b", absl::Now());
  metrics.SetHealth("", true);
  metrics.WatchFiles("store", "/proc/version");
  return metrics.Text();
}

// One plain HTTP/1.0 GET over a socket.
int ConnectTo(const std::string& address) {
  const std::vector<std::string> parts = absl::StrSplit(address, ':');
  int port = 0;
  EXPECT_TRUE(absl::SimpleAtoi(parts.at(1), &port));
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  EXPECT_EQ(inet_pton(AF_INET, parts[0].c_str(), &to.sin_addr), 1);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
  return fd;
}

std::string Get(const std::string& address, const std::string& path) {
  const int fd = ConnectTo(address);
  const std::string request = absl::StrCat("GET ", path, " HTTP/1.0\r\n\r\n");
  EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;) answer.append(buffer, n);
  close(fd);
  return answer;
}

TEST(Metrics, NamesFollowThePrometheusConventions) {
  const std::string text = TextOfEverything();
  std::map<std::string, std::string> types;
  std::map<std::string, std::string> helps;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<std::string> words = absl::StrSplit(line, absl::MaxSplits(' ', 3));
    if (words[0] != "#") continue;
    auto& kind = words[1] == "TYPE" ? types : helps;
    EXPECT_TRUE(kind.emplace(words[2], words.size() > 3 ? words[3] : "").second)
        << words[2] << " is declared twice";
  }
  EXPECT_GT(types.size(), 45u);
  for (const auto& [name, type] : types) {
    EXPECT_THAT(name, ::testing::MatchesRegex("(tasuki|grpc_server|process)_[a-z0-9_]+"));
    EXPECT_FALSE(helps[name].empty()) << name;
    EXPECT_EQ(absl::EndsWith(name, "_total"), type == "counter") << name;
    for (const char* reserved : {"_count", "_sum", "_bucket", "_milliseconds", "_minutes", "_kb"}) {
      EXPECT_FALSE(absl::EndsWith(name, reserved)) << name;
    }
    EXPECT_FALSE(absl::StrContains(name, type)) << name << " repeats its type";
    if (absl::StrContains(helps[name], "in seconds")) {
      EXPECT_THAT(name, HasSubstr("_seconds"));
    }
  }
}

TEST(Metrics, ChildrenWithAClosedListAreThereFromTheStart) {
  Metrics metrics;
  metrics.Method("unary", "tasuki.v1.DatasetService", "GetDataset");
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("tasuki_jobs{state=\"CANCELLING\"} 0"));
  EXPECT_THAT(text, HasSubstr("tasuki_store_errors_total{op=\"write_jobs\"} 0"));
  EXPECT_THAT(text, HasSubstr("tasuki_child_exits_total{class=\"crashed\"} 0"));
  EXPECT_THAT(text, HasSubstr("tasuki_admission_rejections_total{priority=\"bulk\",reason="
                              "\"cancelled\"} 0"));
  EXPECT_THAT(text, HasSubstr("tasuki_inference_expired_executions_total 0"));
  EXPECT_THAT(text, HasSubstr("grpc_code=\"DeadlineExceeded\""));
  EXPECT_THAT(text, HasSubstr("tasuki_draining 0"));
  EXPECT_THAT(text, HasSubstr("tasuki_access_refusals_total{reason=\"token_invalid\"} 0"));
  EXPECT_THAT(text, HasSubstr("tasuki_access_reloads_total{file=\"tokens\",result=\"error\"} 0"));
  EXPECT_THAT(text, Not(HasSubstr("tasuki_tls_certificate_expiry_timestamp_seconds ")))
      << "without TLS there is nothing that could expire";
}

TEST(Metrics, ReadsTheProcessAndTheVolume) {
  const std::string text = TextOfEverything();
  EXPECT_THAT(text, HasSubstr("tasuki_compute_threads{kernels=\"avx512\",precision=\"int8\","
                              "use=\"serving\"} 2"));
  for (const char* name :
       {"process_cpu_seconds_total", "process_open_fds", "process_max_fds", "process_threads",
        "process_virtual_memory_bytes", "process_virtual_memory_max_bytes", "process_heap_bytes",
        "process_resident_memory_bytes", "process_start_time_seconds",
        "tasuki_memory_limit_bytes"}) {
    EXPECT_THAT(text, HasSubstr(absl::StrCat("\n", name, " ")));
  }
  EXPECT_THAT(text, Not(HasSubstr("process_resident_memory_bytes 0\n")));
  EXPECT_THAT(text, HasSubstr("tasuki_volume_free_bytes{volume=\"data\"} "));
}

TEST(Metrics, TheTrainersMemoryIsThatOfTheChildren) {
  const auto bytes = [] {
    const std::string text = Metrics().Text();
    const size_t at = text.find("\ntasuki_trainer_resident_memory_bytes ");
    EXPECT_NE(at, std::string::npos);
    return std::atof(text.c_str() + text.find(' ', at));
  };
  EXPECT_EQ(bytes(), 0);
  const pid_t child = fork();
  if (child == 0) pause();
  EXPECT_GT(bytes(), 0);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_EQ(bytes(), 0);
}

TEST(ModelMetrics, SeriesGoWithTheLastObjectOfAVersion) {
  Metrics metrics;
  auto first = metrics.ForModel(Sentiment());
  auto second = metrics.ForModel(Sentiment());  // loaded again while the first is still answering
  first->CountRequest(ModelMetrics::Result::kOk, 2, absl::ZeroDuration());
  second->CountRequest(ModelMetrics::Result::kOk, 3, absl::ZeroDuration());
  first.reset();
  second->CountPrediction(0, 1, .97);
  EXPECT_THAT(metrics.Text(),
              HasSubstr("tasuki_inference_texts_total{model=\"models/sentiment/versions/3\","
                        "result=\"ok\"} 5"));
  second.reset();
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("models/sentiment")));
}

TEST(ModelMetrics, TotalsAreWhatWasCounted) {
  Metrics metrics;
  const auto model = metrics.ForModel(Sentiment());
  EXPECT_EQ(model->Read().last_end, absl::UnixEpoch());
  const absl::Time before = absl::Now() - absl::Milliseconds(1);
  model->ObserveStage(ModelMetrics::Stage::kTokenize, absl::Milliseconds(1));
  model->ObserveStage(ModelMetrics::Stage::kQueue, absl::Milliseconds(2));
  for (int pass = 0; pass < 2; ++pass) {
    model->ObserveStage(ModelMetrics::Stage::kEncode, absl::Milliseconds(3));
    model->ObserveStage(ModelMetrics::Stage::kDecode, absl::Milliseconds(1));
    model->ObserveStage(ModelMetrics::Stage::kPostprocess, absl::Milliseconds(9));
  }
  model->CountRequest(ModelMetrics::Result::kOk, 5, absl::Milliseconds(10));
  model->CountRequest(ModelMetrics::Result::kOk, 1, absl::Milliseconds(20));
  model->CountRequest(ModelMetrics::Result::kExpired, 7, absl::Milliseconds(2));
  model->CountRequest(ModelMetrics::Result::kError, 7, absl::Milliseconds(3));

  const ModelMetrics::Totals totals = model->Read();
  EXPECT_EQ(totals.ok.count, 2);
  EXPECT_EQ(totals.ok.time, absl::Milliseconds(30));
  EXPECT_EQ(totals.failed.count, 2);
  EXPECT_EQ(totals.failed.time, absl::Milliseconds(5));
  EXPECT_EQ(totals.texts, 6);
  EXPECT_EQ(totals.tokenize.count, 1);
  EXPECT_EQ(totals.queue.count, 1);
  EXPECT_EQ(totals.forward.count, 2);
  EXPECT_NEAR(absl::ToDoubleSeconds(totals.forward.time), .008, 1e-9);
  EXPECT_GE(totals.last_end, before);
}

TEST(ModelMetrics, SurvivesLoadsAndUnloadsOfOneVersionOnManyThreads) {
  Metrics metrics;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) metrics.ForModel(Sentiment())->ObserveBatch(1, 8, 0);
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("models/sentiment")));
}

TEST(ModelMetrics, LabelsBeyondTheLimitCountAsOther) {
  Metrics metrics;
  ServedModel model = Sentiment();
  model.tasks[0].labels.clear();
  for (int i = 0; i < 40; ++i) model.tasks[0].labels.push_back(absl::StrCat("label", i));
  auto series = metrics.ForModel(model);
  series->CountPrediction(0, 30, .5);
  series->CountPrediction(0, 31, .5);
  series->CountPrediction(0, 39, .5);
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("label=\"label30\""));
  EXPECT_THAT(text, Not(HasSubstr("label=\"label31\"")));
  EXPECT_THAT(text, ::testing::ContainsRegex("predictions_total.*label=\"other\".* 2"));
}

TEST(JobMetrics, CountsStepsExamplesAndTokensSinceTheReportBefore) {
  Metrics metrics;
  auto job = metrics.ForJob("trainingJobs/a", 700);
  job->Observe({.phase = "PREPARING", .step = 0});
  job->Observe({.step = 500, .total_steps = 1000, .batch_size = 8});  // goes on from a checkpoint
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("tasuki_train_loss{"))) << "no step yet, no loss";
  job->Observe({.step = 510,
                .total_steps = 1000,
                .batch_size = 8,
                .loss = .25,
                .examples_per_second = 4,
                .tokens_per_second = 100});
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("tasuki_train_steps_total 10\n"));
  EXPECT_THAT(text, HasSubstr("tasuki_train_examples_total 80\n"));
  EXPECT_THAT(text, HasSubstr("tasuki_train_tokens_total 2000\n"));
  EXPECT_THAT(text, HasSubstr("tasuki_train_step_seconds_count 10\n"));
  EXPECT_THAT(text, HasSubstr("tasuki_train_step_seconds_sum 20\n"));
  EXPECT_THAT(text, HasSubstr("tasuki_train_loss{job=\"trainingJobs/a\"} 0.25"));
  EXPECT_THAT(text, HasSubstr("tasuki_train_progress_ratio{job=\"trainingJobs/a\"} 0.51"));
}

TEST(JobMetrics, WhatGoesOnHasItsProgressFromTheStart) {
  Metrics metrics;
  auto job = metrics.ForJob("trainingJobs/a", 449, 1000);
  job->Observe({.phase = "PREPARING", .step = 0});
  EXPECT_THAT(metrics.Text(),
              HasSubstr("tasuki_train_progress_ratio{job=\"trainingJobs/a\"} 0.449"));
}

TEST(JobMetrics, OnePhaseIsTheJobsAtATime) {
  Metrics metrics;
  auto job = metrics.ForJob("trainingJobs/a");
  const auto phases = [&metrics] {
    std::string now;
    for (absl::string_view line : absl::StrSplit(metrics.Text(), '\n')) {
      if (!absl::ConsumePrefix(&line, "tasuki_train_phase{job=\"trainingJobs/a\",phase=\""))
        continue;
      if (absl::EndsWith(line, " 1")) absl::StrAppend(&now, line.substr(0, line.find('"')), ";");
    }
    return now;
  };
  EXPECT_EQ(phases(), "PREPARING;") << "before the first report";
  job->Observe({.phase = "TRAINING", .step = 1});
  EXPECT_EQ(phases(), "TRAINING;");
  job->Observe({.phase = "EVALUATING", .step = 1});
  EXPECT_EQ(phases(), "EVALUATING;");
}

TEST(JobMetrics, GaugesGoWithTheJobAndCountersStay) {
  Metrics metrics;
  auto job = metrics.ForJob("trainingJobs/a");
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("tasuki_train_loss{")));  // no report yet
  job->Observe({.step = 3, .total_steps = 3, .batch_size = 1});
  job->CountCheckpoint(absl::Seconds(2));
  job.reset();
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("trainingJobs/a")));
  EXPECT_THAT(metrics.Text(), HasSubstr("tasuki_train_steps_total 3\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("tasuki_checkpoints_total{result=\"ok\"} 1\n"));
  EXPECT_THAT(metrics.Text(), HasSubstr("tasuki_checkpoint_write_seconds_sum 2\n"));
}

TEST(Metrics, TheOldestQueuedJobIsTheOneThatWaitsLongest) {
  constexpr char kSeries[] = "tasuki_job_oldest_queued_timestamp_seconds ";
  Metrics metrics;
  EXPECT_THAT(metrics.Text(), Not(HasSubstr(kSeries)));
  metrics.SetQueued("trainingJobs/b", absl::FromUnixSeconds(200));
  metrics.SetQueued("trainingJobs/a", absl::FromUnixSeconds(100));
  EXPECT_THAT(metrics.Text(), HasSubstr(absl::StrCat(kSeries, "100\n")));
  metrics.SetQueued("trainingJobs/a", std::nullopt);
  EXPECT_THAT(metrics.Text(), HasSubstr(absl::StrCat(kSeries, "200\n")));
  metrics.SetQueued("trainingJobs/b", std::nullopt);
  metrics.SetQueued("trainingJobs/b", std::nullopt);
  EXPECT_THAT(metrics.Text(), Not(HasSubstr(kSeries)));
}

TEST(Metrics, TellsWhatTheStoreAndTheLogAndHealthDo) {
  Metrics metrics;
  metrics.AddStoreConnections(4);
  metrics.UseStoreConnections(2);
  metrics.UseStoreConnections(-1);
  metrics.CountStoreRetry("write_jobs");
  metrics.CountLogMessage(Metrics::LogLevel::kWarning);
  metrics.SetHealth("", true);
  metrics.SetHealth("tasuki.v1.ClassificationService", false);
  metrics.CountCheckpointError();
  metrics.CountCheckpointFallback();
  const std::string text = metrics.Text();
  for (const char* line :
       {"tasuki_store_connections{state=\"in_use\"} 1",
        "tasuki_store_connections{state=\"idle\"} 3",
        "tasuki_store_retries_total{op=\"write_jobs\"} 1",
        "tasuki_store_retries_total{op=\"read_models\"} 0",
        "tasuki_log_messages_total{level=\"warning\"} 1",
        "tasuki_log_messages_total{level=\"error\"} 0",
        "tasuki_health_serving{service=\"tasukid\"} 1",
        "tasuki_health_serving{service=\"tasuki.v1.ClassificationService\"} 0",
        "tasuki_checkpoints_total{result=\"error\"} 1", "tasuki_checkpoint_fallbacks_total 1"}) {
    EXPECT_THAT(text, HasSubstr(absl::StrCat("\n", line, "\n")));
  }
}

TEST(Metrics, AddsUpTheFilesOfAKind) {
  std::string root = ::testing::TempDir() + "files.XXXXXX";
  ASSERT_NE(mkdtemp(root.data()), nullptr);
  std::filesystem::create_directories(root + "/deep/er");
  for (const char* name : {"/one", "/deep/er/two"}) {
    std::ofstream(root + name) << std::string(8192, 'x');
  }
  Metrics metrics;
  metrics.WatchFiles("models", root);
  metrics.WatchFiles("models", root + "/deep");
  metrics.WatchFiles("jobs", root + "/not there");
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("tasuki_artifact_bytes{kind=\"models\"} 24576\n"));
  EXPECT_THAT(text, HasSubstr("tasuki_artifact_bytes{kind=\"jobs\"} 0\n"));
  std::filesystem::remove_all(root);
}

TEST(DeviceCollector, TellsWhatNvmlTells) {
  const DeviceCollector collector(absl::StrCat(TASUKI_BINARY_DIR, "/libfake-nvml.so"));
  const std::string text = prometheus::TextSerializer().Serialize(collector.Collect());
  for (const char* line : {"tasuki_device_memory_used_bytes{device=\"0\"} 1000",
                           "tasuki_device_memory_used_bytes{device=\"1\"} 2000",
                           "tasuki_device_memory_total_bytes{device=\"1\"} 80000",
                           "tasuki_device_utilization_ratio{device=\"0\"} 0.25",
                           "tasuki_device_energy_joules_total{device=\"0\"} 1.5"}) {
    EXPECT_THAT(text, HasSubstr(absl::StrCat("\n", line, "\n")));
  }
  EXPECT_THAT(text, Not(HasSubstr("energy_joules_total{device=\"1\"}"))) << "it does not give it";
}

TEST(DeviceCollector, WithoutADriverThereIsNothing) {
  EXPECT_TRUE(DeviceCollector("libno-such-nvml.so").Collect().empty());
  EXPECT_TRUE(DeviceCollector("libz.so.1").Collect().empty()) << "another library";
}

TEST(Metrics, CountsFinishedJobsUnderAClosedListOfReasons) {
  Metrics metrics;
  metrics.CountJobFinished("FAILED", "CRASH_LOOP", absl::Seconds(2));
  metrics.CountJobFinished("FAILED", "OUT_OF_MEMORY", absl::Seconds(2));
  metrics.CountJobFinished("FAILED", "a story", absl::Seconds(2));
  metrics.CountJobFinished("SUCCEEDED", "", absl::Seconds(2));
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("{reason=\"CRASH_LOOP\",state=\"FAILED\"} 1"));
  EXPECT_THAT(text, HasSubstr("{reason=\"OUT_OF_MEMORY\",state=\"FAILED\"} 1"));
  EXPECT_THAT(text, HasSubstr("{reason=\"OTHER\",state=\"FAILED\"} 1"));
  EXPECT_THAT(text, HasSubstr("{reason=\"NONE\",state=\"SUCCEEDED\"} 1"));
  EXPECT_THAT(text, Not(HasSubstr("a story")));
}

TEST(Metrics, AnswersOverHttpAtAFreePort) {
  Metrics metrics;
  const auto address = metrics.Listen("127.0.0.1:0");
  ASSERT_TRUE(address.ok()) << address.status();
  EXPECT_FALSE(absl::EndsWith(*address, ":0"));
  const std::string answer = Get(*address, "/metrics");
  EXPECT_THAT(answer, HasSubstr("200 OK"));
  EXPECT_THAT(answer, HasSubstr("\ntasuki_draining 0"));
  EXPECT_THAT(answer, HasSubstr("\nprocess_open_fds "));
}

TEST(Metrics, ConnectionsThatSayNothingDoNotKeepPrometheusOut) {
  Metrics metrics;
  const auto address = metrics.Listen("127.0.0.1:0");
  ASSERT_TRUE(address.ok()) << address.status();
  std::vector<int> silent(8);
  for (int& fd : silent) fd = ConnectTo(*address);
  absl::SleepFor(absl::Milliseconds(50));  // until each has its thread
  const absl::Time start = absl::Now();
  EXPECT_THAT(Get(*address, "/metrics"), HasSubstr("200 OK"));
  EXPECT_LT(absl::Now() - start, absl::Seconds(2));
  for (const int fd : silent) close(fd);
}

TEST(Metrics, StopsListeningAtOnce) {
  auto metrics = std::make_unique<Metrics>();
  const auto address = metrics->Listen("127.0.0.1:0");
  ASSERT_TRUE(address.ok()) << address.status();
  EXPECT_THAT(Get(*address, "/metrics"), HasSubstr("200 OK"));
  const absl::Time start = absl::Now();
  metrics.reset();
  EXPECT_LT(absl::Now() - start, absl::Seconds(1)) << "its web server would take two seconds";
}

TEST(Metrics, SaysWhyItCannotListen) {
  Metrics metrics;
  Metrics other;
  const auto address = metrics.Listen("127.0.0.1:0");
  ASSERT_TRUE(address.ok()) << address.status();
  const absl::Status taken = other.Listen(*address).status();
  EXPECT_EQ(taken.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(taken.message(), HasSubstr(*address));
  for (const char* bad : {"", "9500", ":9500", "127.0.0.1:x", "127.0.0.1:70000", "127.0.0.1:80s",
                          "127.0.0.1:0,127.0.0.1:1"}) {
    EXPECT_EQ(other.Listen(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace tasuki
