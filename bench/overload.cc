// Measures what a server answers in time when more is asked of it than it can do.
//
// usage: bench-overload ADDRESS MODEL TASK TEXTS [--seconds S] [--texts N] [--texts_a_call N]
//                       [--callers C] [--deadline_ms D]
// TEXTS has one text a line, of which the first N are taken (256), and calls go through them in
// turn. First the time of one call at a time is measured, then what the server answers to 64 calls
// under way all the time: its capacity. Then as many calls as 1, 2, 5 and 10 times the capacity
// begin at random, however long the answers take (an open loop with exponential gaps), over C
// connections in turn (4): for S seconds each, in turns of a quarter of them, so that a machine
// that is slower for a while is so for all. Each has a deadline of D milliseconds (200, or ten
// times the median of one call at a time if that is more), and none is made again. An answer is
// useful if it comes before its deadline. Prints a line of JSON for the capacity and for each load:
// calls and useful answers a second, milliseconds of answers and refusals, CPU seconds of this
// process a second; and one with the useful answers of 5 times the capacity over the most of any
// load, and the refusals of all loads. (The capacity's answers have no deadline, and most come too
// late to be useful.) Exits with 1 if a call ended in another way.
//
// Client and server share the cores: long texts, and so few calls a second, keep the client small.
// It is the clock, and stands for clients on machines of their own: it runs before the server if
// the system allows that (real time, round robin), and the last line says whether it did.
#include <grpcpp/grpcpp.h>
#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <iostream>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tasuki/v1/classification.grpc.pb.h"

namespace tasuki {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr int kUnderWay = 64;
constexpr int kTurns = 4;  // of each load

double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) { return t.tv_sec + t.tv_usec * 1e-6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Setup {
  std::vector<std::unique_ptr<v1::ClassificationService::Stub>> stubs;
  std::vector<v1::ClassifyRequest> requests;
  double seconds = 10;
};

// The calls of one load. Thread-safe.
class Calls {
 public:
  explicit Calls(const Setup& setup) : setup_(setup) {}

  // Begins one; `deadline` zero for none.
  void Begin(Seconds deadline) {
    auto* call = new Call;
    if (deadline > Seconds(0)) {
      call->context.set_deadline(std::chrono::system_clock::now() +
                                 std::chrono::duration_cast<std::chrono::microseconds>(deadline));
    }
    call->begin = Clock::now();
    const size_t number = begun_++;
    setup_.stubs[number % setup_.stubs.size()]->async()->Classify(
        &call->context, &setup_.requests[number % setup_.requests.size()], &call->response,
        [this, call](const grpc::Status& status) { End(call, status); });
  }
  // Waits until at most so many are under way.
  void Await(size_t under_way) {
    std::unique_lock lock(mutex_);
    ended_.wait(lock, [&] { return begun_ - count_ <= under_way; });
  }
  size_t begun() const { return begun_; }
  // Useful answers so far.
  size_t count_useful() {
    const std::lock_guard lock(mutex_);
    return useful_.size();
  }
  // Milliseconds of the useful answers.
  std::vector<double>& useful() { return useful_; }
  std::vector<double>& refused() { return refused_; }
  size_t late() const { return late_; }
  size_t failures() const { return failures_; }
  std::string failure() const { return failure_; }

 private:
  struct Call {
    grpc::ClientContext context;
    v1::ClassifyResponse response;
    Clock::time_point begin;
  };

  void End(Call* call, const grpc::Status& status) {
    const double milliseconds = Seconds(Clock::now() - call->begin).count() * 1e3;
    delete call;
    const std::lock_guard lock(mutex_);
    switch (status.error_code()) {
      case grpc::StatusCode::OK:
        useful_.push_back(milliseconds);
        break;
      case grpc::StatusCode::RESOURCE_EXHAUSTED:
        refused_.push_back(milliseconds);
        break;
      case grpc::StatusCode::DEADLINE_EXCEEDED:
        ++late_;
        break;
      default:
        ++failures_;
        failure_ = status.error_message();
    }
    ++count_;
    ended_.notify_all();  // under the lock: whoever waits may destroy this
  }

  const Setup& setup_;
  std::atomic<size_t> begun_ = 0;
  std::mutex mutex_;
  std::condition_variable ended_;
  size_t count_ = 0, late_ = 0, failures_ = 0;
  std::string failure_;
  std::vector<double> useful_, refused_;
};

double Quantile(std::vector<double>& values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min<size_t>(values.size() - 1, values.size() * share)];
}

// Calls one after the other; the median in seconds.
Seconds OneAtATime(const Setup& setup, Seconds time) {
  Calls calls(setup);
  for (const auto begin = Clock::now(); Clock::now() - begin < time;) {
    calls.Begin(Seconds(0));
    calls.Await(0);
  }
  if (calls.failures() > 0) throw std::runtime_error(calls.failure());
  return Seconds(Quantile(calls.useful(), .5) / 1e3);
}

// Answers a second to as many calls as are under way all the time.
double Capacity(const Setup& setup, Seconds time) {
  Calls calls(setup);
  const auto begin = Clock::now();
  while (Clock::now() - begin < time) {
    calls.Begin(Seconds(0));
    calls.Await(kUnderWay - 1);
  }
  calls.Await(0);
  if (calls.failures() > 0) throw std::runtime_error(calls.failure());
  return static_cast<double>(calls.useful().size()) / Seconds(Clock::now() - begin).count();
}

// This thread, and those that it starts, before all that are not in real time.
bool GoFirst() {
  const sched_param lowest = {.sched_priority = 1};
  return sched_setscheduler(0, SCHED_RR, &lowest) == 0;
}

// What one load came to in all its turns.
struct Load {
  explicit Load(const Setup& setup, double n) : times(n), calls(setup), random(1) {}
  const double times;
  Calls calls;
  std::mt19937_64 random;
  double took = 0, used = 0;  // seconds; of this process' CPU
  size_t useful = 0;          // answers before a turn was over
};

// A turn of `time`, in which calls begin at random, `rate` a second.
void Offer(Load& load, double rate, Seconds deadline, Seconds time) {
  std::exponential_distribution<double> gap(rate);
  const double cpu = CpuSeconds();
  const size_t before = load.calls.count_useful();
  const auto begin = Clock::now();
  Seconds due(0);
  while ((due += Seconds(gap(load.random))) < time) {
    std::this_thread::sleep_until(begin + std::chrono::duration_cast<Clock::duration>(due));
    load.calls.Begin(deadline);
  }
  load.took += Seconds(Clock::now() - begin).count();
  load.used += CpuSeconds() - cpu;
  load.useful += load.calls.count_useful() - before;
  load.calls.Await(0);
}

// Prints the line of a load; answers its useful answers a second.
double Report(Load& load) {
  Calls& calls = load.calls;
  const double useful = static_cast<double>(load.useful) / load.took;
  std::printf(
      "{\"what\": \"overload\", \"times\": %g, \"offered_per_second\": %.1f, "
      "\"useful_per_second\": %.1f, \"refused\": %zu, \"late\": %zu, \"failures\": %zu, "
      "\"useful_p50_ms\": %.1f, \"useful_p99_ms\": %.1f, \"refused_p50_ms\": %.2f, "
      "\"refused_p99_ms\": %.2f, \"client_cpu\": %.2f}\n",
      load.times, static_cast<double>(calls.begun()) / load.took, useful, calls.refused().size(),
      calls.late(), calls.failures(), Quantile(calls.useful(), .5), Quantile(calls.useful(), .99),
      Quantile(calls.refused(), .5), Quantile(calls.refused(), .99), load.used / load.took);
  std::fflush(stdout);
  return useful;
}

int Run(int count, char** arguments) {
  if (count < 5) {
    std::cerr << "usage: bench-overload ADDRESS MODEL TASK TEXTS [--seconds S] [--texts N] "
                 "[--texts_a_call N] [--callers C] [--deadline_ms D]\n";
    return 2;
  }
  size_t most_texts = 256, texts_a_call = 1;
  int callers = 4;
  Setup setup;
  const bool first = GoFirst();
  Seconds deadline(0);
  for (int i = 5; i + 1 < count; i += 2) {
    const std::string flag = arguments[i];
    if (flag == "--seconds") setup.seconds = std::atof(arguments[i + 1]);
    if (flag == "--texts") most_texts = std::atoll(arguments[i + 1]);
    if (flag == "--texts_a_call") texts_a_call = std::atoll(arguments[i + 1]);
    if (flag == "--callers") callers = std::atoi(arguments[i + 1]);
    if (flag == "--deadline_ms") deadline = Seconds(std::atof(arguments[i + 1]) / 1e3);
  }
  std::vector<std::string> texts;
  std::ifstream file(arguments[4]);
  for (std::string line; texts.size() < most_texts && std::getline(file, line);) {
    texts.push_back(line);
  }
  if (callers < 1 || texts_a_call < 1 || texts.empty()) {
    std::cerr << "bench-overload: no callers, no texts a call, or no texts in " << arguments[4]
              << "\n";
    return 2;
  }
  for (int i = 0; i < callers; ++i) {
    grpc::ChannelArguments own;
    own.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    setup.stubs.push_back(v1::ClassificationService::NewStub(
        grpc::CreateCustomChannel(arguments[1], grpc::InsecureChannelCredentials(), own)));
  }
  for (size_t begin = 0; begin < texts.size(); begin += texts_a_call) {
    v1::ClassifyRequest& request = setup.requests.emplace_back();
    request.set_model(arguments[2]);
    request.add_tasks(arguments[3]);
    for (size_t i = 0; i < texts_a_call; ++i) request.add_texts(texts[(begin + i) % texts.size()]);
  }
  OneAtATime(setup, Seconds(1));
  const Seconds median = OneAtATime(setup, Seconds(setup.seconds / 4));
  if (deadline <= Seconds(0)) deadline = std::max(Seconds(.2), 10 * median);
  const double capacity = Capacity(setup, Seconds(setup.seconds));
  std::printf(
      "{\"what\": \"capacity\", \"calls_per_second\": %.1f, \"alone_p50_ms\": %.2f, "
      "\"deadline_ms\": %.0f}\n",
      capacity, median.count() * 1e3, deadline.count() * 1e3);
  std::fflush(stdout);
  bool good = true;
  double most = 0, at_five = 0;
  std::vector<double> refused;
  std::deque<Load> loads;
  for (const double times : {1., 2., 5., 10.}) loads.emplace_back(setup, times);
  for (int turn = 0; turn < kTurns; ++turn) {
    for (Load& load : loads) {
      Offer(load, load.times * capacity, deadline, Seconds(setup.seconds / kTurns));
    }
  }
  for (Load& load : loads) {
    const double useful = Report(load);
    most = std::max(most, useful);
    if (load.times == 5) at_five = useful;
    refused.insert(refused.end(), load.calls.refused().begin(), load.calls.refused().end());
    if (load.calls.failures() > 0) {
      std::cerr << "bench-overload: " << load.calls.failures() << " calls failed, the last with "
                << load.calls.failure() << "\n";
      good = false;
    }
  }
  std::printf(
      "{\"what\": \"overload\", \"useful_at_5_over_most\": %.3f, \"refused\": %zu, "
      "\"refused_p50_ms\": %.2f, \"refused_p99_ms\": %.2f, \"client_goes_first\": %s}\n",
      at_five / most, refused.size(), Quantile(refused, .5), Quantile(refused, .99),
      first ? "true" : "false");
  return good ? 0 : 1;
}

}  // namespace
}  // namespace tasuki

int main(int count, char** arguments) {
  try {
    return tasuki::Run(count, arguments);
  } catch (const std::exception& error) {
    std::cerr << "bench-overload: " << error.what() << "\n";
    return 1;
  }
}
