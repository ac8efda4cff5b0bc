#include "server/rpc/watch_hub.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/server_context.h"
#include "model/errors/errors.h"
#include "server/rpc/status.h"
#include "server/store/job_state.h"
#include "server/store/store.h"

namespace tasuki {
namespace {

constexpr int kEventsOfOneRead = 64;
// Should a wake-up ever be missed, this is how late an event may come.
constexpr absl::Duration kSafetyTick = absl::Seconds(5);
// How long a client may take a write when the server stops.
constexpr absl::Duration kDrainPatience = absl::Seconds(1);

}  // namespace

// One stream. The hub's thread calls Write and Finish, gRPC the rest.
class WatchHub::Watcher : public grpc::ServerWriteReactor<v1::WatchTrainingJobResponse> {
 public:
  Watcher(WatchHub& hub, grpc::CallbackServerContext& context, std::string job,
          int64_t from_sequence)
      : job(std::move(job)), next_sequence(from_sequence), hub_(hub), context_(context) {}

  void Write(std::shared_ptr<const std::vector<v1::TrainingJobEvent>> events) {
    next_sequence = events->back().sequence() + 1;
    events_ = std::move(events);
    position_ = 0;
    WriteNext();
  }
  // A write under way fails then.
  void Cancel() { context_.TryCancel(); }
  void OnWriteDone(bool ok) override {
    if (ok && position_ < events_->size()) {
      WriteNext();
    } else {
      hub_.Written(this, ok);
    }
  }
  void OnCancel() override { hub_.Gone(this); }
  void OnDone() override { delete this; }

  const std::string job;
  int64_t next_sequence;  // of the hub's thread

 private:
  void WriteNext() {
    *response_.mutable_event() = (*events_)[position_++];
    StartWrite(&response_);
  }

  WatchHub& hub_;
  grpc::CallbackServerContext& context_;  // lives until OnDone
  std::shared_ptr<const std::vector<v1::TrainingJobEvent>> events_;
  size_t position_ = 0;
  v1::WatchTrainingJobResponse response_;
};

WatchHub::WatchHub(JobTable& jobs) : jobs_(jobs), thread_([this] { Run(); }) {}

WatchHub::~WatchHub() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

grpc::ServerWriteReactor<v1::WatchTrainingJobResponse>* WatchHub::Watch(
    grpc::CallbackServerContext& context, const std::string& job, int64_t from_sequence) {
  auto* watcher = new Watcher(*this, context, job, std::max<int64_t>(1, from_sequence));
  absl::MutexLock lock(&mutex_);
  watchers_.emplace(watcher, State());
  ready_.insert(watcher);
  return watcher;
}

void WatchHub::Wake(const std::string& job) {
  absl::MutexLock lock(&mutex_);
  for (auto& [watcher, state] : watchers_) {
    if (watcher->job == job && !state.writing) ready_.insert(watcher);
  }
}

void WatchHub::Drain() {
  absl::MutexLock lock(&mutex_);
  if (draining_) return;
  draining_ = drain_begins_ = true;
  cut_off_at_ = absl::Now() + kDrainPatience;
}

void WatchHub::Written(Watcher* watcher, bool ok) {
  absl::MutexLock lock(&mutex_);
  State& state = watchers_.at(watcher);  // it stays until this write is done
  state.writing = false;
  state.gone |= !ok;
  ready_.insert(watcher);
}

void WatchHub::Gone(Watcher* watcher) {
  absl::MutexLock lock(&mutex_);
  // It may have ended already: gRPC reports a cancellation until OnDone.
  if (const auto found = watchers_.find(watcher); found != watchers_.end()) {
    found->second.gone = true;
    if (!found->second.writing) ready_.insert(watcher);
  }
}

std::vector<WatchHub::Watcher*> WatchHub::TakeReady() {
  std::vector<Watcher*> ready;
  for (Watcher* watcher : std::exchange(ready_, {})) {
    // Otherwise news came between its being taken and its being written to.
    if (!watchers_.at(watcher).writing) ready.push_back(watcher);
  }
  return ready;
}

void WatchHub::Run() {
  while (true) {
    std::vector<Watcher*> ready;
    {
      absl::MutexLock lock(&mutex_);
      const absl::Time until = std::min(absl::Now() + kSafetyTick, cut_off_at_);
      if (!mutex_.AwaitWithDeadline(absl::Condition(this, &WatchHub::HasWork), until) ||
          drain_begins_) {
        for (auto& [watcher, state] : watchers_) ready_.insert(watcher);
      }
      if (stopping_) return;
      drain_begins_ = false;
      ready = TakeReady();
    }
    Readings readings;  // of this round: what happens after one is news for the next round
    for (Watcher* watcher : ready) Serve(*watcher, readings);
    CutOff();
  }
}

void WatchHub::CutOff() {
  std::vector<Watcher*> stuck;
  {
    absl::MutexLock lock(&mutex_);
    if (absl::Now() < cut_off_at_) return;
    cut_off_at_ = absl::InfiniteFuture();
    for (const auto& [watcher, state] : watchers_) {
      if (state.writing) stuck.push_back(watcher);
    }
  }
  // Each of them stays until it is ended, which this thread does.
  for (Watcher* watcher : stuck) watcher->Cancel();
}

WatchHub::Reading WatchHub::Read(const std::string& name, int64_t from_sequence) {
  // The job first: if it had ended by then, the events that follow are all there will ever be.
  const auto job = jobs_.Get(name);
  if (!job.ok()) return {job.status(), false, nullptr};
  auto events = jobs_.ReadEvents(name, from_sequence, kEventsOfOneRead);
  if (!events.ok()) return {events.status(), false, nullptr};
  return {absl::OkStatus(), HasEnded(job->state()),
          std::make_shared<const std::vector<v1::TrainingJobEvent>>(*std::move(events))};
}

void WatchHub::Serve(Watcher& watcher, Readings& readings) {
  absl::Status over;
  {
    absl::MutexLock lock(&mutex_);
    if (watchers_.at(&watcher).gone) {
      over = absl::CancelledError("The client went away.");
    } else if (draining_) {
      over = DrainingError();
    }
  }
  if (!over.ok()) return End(watcher, over);
  const std::pair<std::string, int64_t> place(watcher.job, watcher.next_sequence);
  auto found = readings.find(place);
  if (found == readings.end()) {
    found = readings.emplace(place, Read(place.first, place.second)).first;
  }
  const Reading& reading = found->second;
  if (!reading.status.ok()) return End(watcher, reading.status);
  if (reading.events->empty()) {
    if (reading.ended) End(watcher, absl::OkStatus());
    return;
  }
  {
    absl::MutexLock lock(&mutex_);
    watchers_.at(&watcher).writing = true;
  }
  watcher.Write(reading.events);
}

void WatchHub::End(Watcher& watcher, const absl::Status& status) {
  {
    absl::MutexLock lock(&mutex_);
    watchers_.erase(&watcher);
    ready_.erase(&watcher);
  }
  watcher.Finish(ToGrpcStatus(status));
}

}  // namespace tasuki
