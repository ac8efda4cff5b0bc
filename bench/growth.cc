// Measures what grows with the number of jobs and of watchers, through a running server. Called by
// bench/growth.py, which makes the jobs.
//
// usage: bench-growth ADDRESS list
//        bench-growth ADDRESS watch JOB WATCHERS CONNECTIONS
// `list` walks through all jobs, then prints milliseconds (median of 20) of the first page of 50
// and of 100, of one near the end, and of the first page of 100 of each state and of two states
// together. `watch` opens WATCHERS streams of one job over CONNECTIONS connections, and
// prints, when all have ended, how many events each had, how many were lost or came twice, and
// milliseconds from when the server stored an event to when a watcher had it. One line of JSON
// each. Exits with 1 if a call failed or an event was lost.
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/blocking_counter.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "google/protobuf/util/time_util.h"
#include "tasuki/v1/training.grpc.pb.h"

namespace tasuki {
namespace {

using Service = v1::TrainingService;
using Job = v1::TrainingJob;

// One page; its milliseconds are added to `times`. Ends the program if the call fails.
v1::ListTrainingJobsResponse List(Service::Stub& stub, const v1::ListTrainingJobsRequest& request,
                                  std::vector<double>& times) {
  grpc::ClientContext context;
  v1::ListTrainingJobsResponse response;
  const absl::Time begin = absl::Now();
  const grpc::Status status = stub.ListTrainingJobs(&context, request, &response);
  times.push_back(absl::ToDoubleMilliseconds(absl::Now() - begin));
  if (!status.ok()) {
    std::cerr << "bench-growth: " << status.error_message() << "\n";
    std::exit(1);
  }
  return response;
}

double MedianOf20(Service::Stub& stub, const v1::ListTrainingJobsRequest& request) {
  std::vector<double> times;
  for (int i = 0; i < 20; ++i) List(stub, request, times);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

int RunList(Service::Stub& stub) {
  v1::ListTrainingJobsRequest request;
  request.set_page_size(1000);
  std::vector<double> times;
  int64_t jobs = 0;
  std::string near_end, next;  // tokens: of a page that is full still, and of the one after it
  while (true) {
    const auto response = List(stub, request, times);
    jobs += response.training_jobs_size();
    if (response.next_page_token().empty()) break;
    near_end = std::exchange(next, response.next_page_token());
    request.set_page_token(next);
  }
  request.set_page_token(near_end);
  std::printf("{\"what\": \"list\", \"jobs\": %lld, \"milliseconds\": {",
              static_cast<long long>(jobs));
  const auto print = [&](const std::string& page) {
    std::printf("\"%s\": %.2f, ", page.c_str(), MedianOf20(stub, request));
  };
  request.set_page_size(100);
  print("100 near the end");
  request.clear_page_token();
  print("first 100");
  for (int state = Job::QUEUED; state <= Job::State_MAX; ++state) {
    request.clear_states();
    request.add_states(static_cast<Job::State>(state));
    print(Job::State_Name(static_cast<Job::State>(state)));
  }
  request.set_states(0, Job::FAILED);
  request.add_states(Job::SUCCEEDED);
  print("FAILED or SUCCEEDED");
  request.set_states(0, Job::PAUSED);
  request.set_states(1, Job::RUNNING);
  print("PAUSED or RUNNING");
  request.clear_states();
  request.set_page_size(50);
  std::printf("\"first 50\": %.2f}}\n", MedianOf20(stub, request));
  return 0;
}

// One stream. gRPC's threads run one reaction of it at a time.
class Watcher : public grpc::ClientReadReactor<v1::WatchTrainingJobResponse> {
 public:
  Watcher(Service::Stub& stub, const std::string& job, absl::BlockingCounter& ended)
      : ended_(ended) {
    request_.set_name(job);
    stub.async()->WatchTrainingJob(&context_, &request_, this);
    StartRead(&response_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    const auto& event = response_.event();
    wrong += event.sequence() == ++events ? 0 : 1;
    const auto stored = absl::FromUnixMicros(
        google::protobuf::util::TimeUtil::TimestampToMicroseconds(event.create_time()));
    lags.push_back(absl::ToDoubleMilliseconds(absl::Now() - stored));
    StartRead(&response_);
  }
  void OnDone(const grpc::Status& end) override {
    status = end;
    ended_.DecrementCount();
  }

  int64_t events = 0, wrong = 0;  // wrong: another than the next
  std::vector<double> lags;
  grpc::Status status;

 private:
  absl::BlockingCounter& ended_;
  grpc::ClientContext context_;
  v1::WatchTrainingJobRequest request_;
  v1::WatchTrainingJobResponse response_;
};

int RunWatch(const std::vector<std::unique_ptr<Service::Stub>>& stubs, const std::string& job,
             int count) {
  absl::BlockingCounter ended(count);
  std::vector<std::unique_ptr<Watcher>> watchers;
  for (int i = 0; i < count; ++i) {
    watchers.push_back(std::make_unique<Watcher>(*stubs[i % stubs.size()], job, ended));
  }
  ended.Wait();
  grpc::ClientContext context;
  v1::GetTrainingJobRequest request;
  request.set_name(job);
  Job end;
  if (!stubs[0]->GetTrainingJob(&context, request, &end).ok()) return 1;
  int64_t lost = 0, failed = 0;
  std::vector<double> lags;
  for (const auto& watcher : watchers) {
    lost += std::abs(end.last_sequence() - watcher->events) + watcher->wrong;
    failed += watcher->status.ok() ? 0 : 1;
    if (!watcher->status.ok() && failed == 1) {
      std::cerr << "bench-growth: " << watcher->status.error_message() << "\n";
    }
    lags.insert(lags.end(), watcher->lags.begin(), watcher->lags.end());
  }
  std::sort(lags.begin(), lags.end());
  if (lags.empty()) lags.push_back(0);
  std::printf(
      "{\"what\": \"watch\", \"watchers\": %d, \"connections\": %zu, \"events\": %lld, \"lost\": "
      "%lld, \"failed\": %lld, \"lag_p50_ms\": %.1f, \"lag_p99_ms\": %.1f, \"lag_max_ms\": %.1f}\n",
      count, stubs.size(), static_cast<long long>(end.last_sequence()),
      static_cast<long long>(lost), static_cast<long long>(failed), lags[lags.size() / 2],
      lags[lags.size() * 99 / 100], lags.back());
  return lost > 0 || failed > 0 ? 1 : 0;
}

int Run(int count, char** arguments) {
  const std::string what = count > 2 ? arguments[2] : "";
  if (!(what == "list" && count == 3) && !(what == "watch" && count == 6)) {
    std::cerr << "usage: bench-growth ADDRESS list | watch JOB WATCHERS CONNECTIONS\n";
    return 2;
  }
  grpc::ChannelArguments own;  // else channels to one address share a connection
  own.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  std::vector<std::unique_ptr<Service::Stub>> stubs;
  for (int i = 0; i < (what == "list" ? 1 : std::max(1, std::atoi(arguments[5]))); ++i) {
    stubs.push_back(Service::NewStub(
        grpc::CreateCustomChannel(arguments[1], grpc::InsecureChannelCredentials(), own)));
  }
  return what == "list" ? RunList(*stubs[0])
                        : RunWatch(stubs, arguments[3], std::atoi(arguments[4]));
}

}  // namespace
}  // namespace tasuki

int main(int count, char** arguments) { return tasuki::Run(count, arguments); }
