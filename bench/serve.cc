// Measures classification through a running server: what bench-classify measures without one.
//
// usage: bench-serve ADDRESS MODEL TASK TEXTS CALLERS TEXTS_A_CALL [--seconds S] [--texts N]
//                    [--rate R]
// TEXTS has one text a line, of which the first N are taken, as bench-classify takes them; calls go
// through them in turn. Each of CALLERS has one call under way and makes the next as soon as it is
// answered. With --rate all together begin R calls a second, however long the answers take, and the
// time of a call counts from when it was due. A call that is refused for a full queue is made again
// when the server said. It counts for S seconds, once every caller has had an answer: a call's
// texts are spread evenly over its time, and what lies within counts, so that calls of seconds do
// not make steps of the rate. Prints one line of JSON: texts a second, milliseconds of the calls
// that ended within, CPU seconds of this process a second, refusals, and calls that failed. Exits
// with 1 if any did.
#include <grpcpp/grpcpp.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "tasuki/v1/classification.grpc.pb.h"

namespace tasuki {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr Seconds kLeastWarmUp(1);

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return t.tv_sec + t.tv_usec * 1e-6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// After which time a refused call is to be made again; negative if the error is not a refusal.
Seconds RetryDelay(const grpc::Status& status) {
  google::rpc::Status details;
  if (status.error_code() != grpc::StatusCode::RESOURCE_EXHAUSTED ||
      !details.ParseFromString(status.error_details())) {
    return Seconds(-1);
  }
  for (const auto& detail : details.details()) {
    google::rpc::RetryInfo retry;
    if (detail.UnpackTo(&retry)) {
      return Seconds(retry.retry_delay().seconds() + retry.retry_delay().nanos() * 1e-9);
    }
  }
  return Seconds(-1);
}

// What one caller saw.
struct Seen {
  struct Call {
    Clock::time_point begin, end;
  };
  std::vector<Call> calls;
  int64_t refusals = 0, failures = 0;
  grpc::Status failure;
};

struct Load {
  v1::ClassificationService::Stub& stub;
  std::vector<v1::ClassifyRequest> requests;
  int callers = 1;
  double rate = 0;  // calls a second of all callers; 0 for as many as are answered
  Clock::time_point begin;
  std::atomic<size_t> next = 0;
  std::atomic<int> warm = 0;  // callers who had an answer, or none at all
  std::atomic<bool> over = false;
};

// Makes one call, again and again if it is refused. False if there is no answer.
bool Answered(Load& load, const v1::ClassifyRequest& request, Seen& seen) {
  v1::ClassifyResponse response;
  while (!load.over) {
    grpc::ClientContext context;
    const grpc::Status status = load.stub.Classify(&context, request, &response);
    if (status.ok() && response.results_size() == request.texts_size()) return true;
    const Seconds delay = RetryDelay(status);
    if (delay < Seconds(0)) {
      ++seen.failures;
      seen.failure = status;
      return false;
    }
    ++seen.refusals;
    std::this_thread::sleep_for(delay);
  }
  return false;
}

void CallInTurn(Load& load, int caller, Seen& seen) {
  for (int64_t call = 0; !load.over && seen.failures < 10; ++call) {
    Clock::time_point begin = Clock::now();
    if (load.rate > 0) {
      const Seconds due(static_cast<double>(call * load.callers + caller) / load.rate);
      begin = load.begin + std::chrono::duration_cast<Clock::duration>(due);
      std::this_thread::sleep_until(begin);
    }
    const v1::ClassifyRequest& request = load.requests[load.next++ % load.requests.size()];
    if (Answered(load, request, seen)) {
      if (seen.calls.empty()) ++load.warm;
      seen.calls.push_back({begin, Clock::now()});
    }
  }
  if (seen.calls.empty()) ++load.warm;
}

int Run(int count, char** arguments) {
  if (count < 7) {
    std::cerr << "usage: bench-serve ADDRESS MODEL TASK TEXTS CALLERS TEXTS_A_CALL [--seconds S] "
                 "[--texts N] [--rate R]\n";
    return 2;
  }
  const int callers = std::atoi(arguments[5]);
  const size_t texts_a_call = std::atoll(arguments[6]);
  double seconds = 10, rate = 0;
  size_t most_texts = 256;
  for (int i = 7; i + 1 < count; i += 2) {
    const std::string flag = arguments[i];
    if (flag == "--seconds") seconds = std::atof(arguments[i + 1]);
    if (flag == "--texts") most_texts = std::atoll(arguments[i + 1]);
    if (flag == "--rate") rate = std::atof(arguments[i + 1]);
  }
  std::vector<std::string> texts;
  std::ifstream file(arguments[4]);
  for (std::string line; texts.size() < most_texts && std::getline(file, line);) {
    texts.push_back(line);
  }
  if (callers < 1 || texts_a_call < 1 || texts.empty()) {
    std::cerr << "bench-serve: no callers, no texts a call, or no texts in " << arguments[4]
              << "\n";
    return 2;
  }
  const auto channel = grpc::CreateChannel(arguments[1], grpc::InsecureChannelCredentials());
  const auto stub = v1::ClassificationService::NewStub(channel);
  Load load{*stub, {}, callers, rate, {}};
  // Made beforehand, so that the client costs little beside a server on the same cores. A call of
  // more texts than are left over goes on with the first.
  for (size_t begin = 0; begin < texts.size(); begin += texts_a_call) {
    v1::ClassifyRequest& request = load.requests.emplace_back();
    request.set_model(arguments[2]);
    request.add_tasks(arguments[3]);
    for (size_t i = 0; i < texts_a_call; ++i) request.add_texts(texts[(begin + i) % texts.size()]);
  }
  load.begin = Clock::now();
  std::vector<Seen> seen(callers);
  std::vector<std::thread> threads;
  for (int i = 0; i < callers; ++i) {
    threads.emplace_back([&load, &seen, i] { CallInTurn(load, i, seen[i]); });
  }
  std::this_thread::sleep_for(kLeastWarmUp);
  while (load.warm < callers) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  const Clock::time_point begin = Clock::now();
  const double cpu_before = CpuSeconds();
  std::this_thread::sleep_for(Seconds(seconds));
  const Clock::time_point end = Clock::now();
  const double took = Seconds(end - begin).count();
  const double cpu = (CpuSeconds() - cpu_before) / took;
  load.over = true;
  for (std::thread& thread : threads) thread.join();

  Seen all;
  double calls = 0;
  std::vector<double> milliseconds;
  for (const Seen& one : seen) {
    for (const Seen::Call& call : one.calls) {
      const Seconds within = std::min(call.end, end) - std::max(call.begin, begin);
      if (within > Seconds(0)) calls += within / Seconds(call.end - call.begin);
      if (call.end < begin || call.end > end) continue;
      milliseconds.push_back(Seconds(call.end - call.begin).count() * 1e3);
    }
    all.refusals += one.refusals;
    all.failures += one.failures;
    if (one.failures > 0) all.failure = one.failure;
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  if (all.failures > 0) {
    std::cerr << "bench-serve: " << all.failures << " calls failed, the last with "
              << all.failure.error_code() << ": " << all.failure.error_message() << "\n";
  }
  if (milliseconds.empty()) {
    std::cerr << "bench-serve: no call was answered in time\n";
    return 1;
  }
  std::printf(
      "{\"what\": \"served\", \"callers\": %d, \"texts_a_call\": %zu, \"calls\": %zu, "
      "\"texts_per_second\": %.2f, \"p50_ms\": %.2f, \"p99_ms\": %.2f, \"client_cpu\": %.3f, "
      "\"refusals\": %lld, \"failures\": %lld}\n",
      callers, texts_a_call, milliseconds.size(), calls * static_cast<double>(texts_a_call) / took,
      milliseconds[milliseconds.size() / 2], milliseconds[milliseconds.size() * 99 / 100], cpu,
      static_cast<long long>(all.refusals), static_cast<long long>(all.failures));
  return all.failures > 0 ? 1 : 0;
}

}  // namespace
}  // namespace tasuki

int main(int count, char** arguments) { return tasuki::Run(count, arguments); }
