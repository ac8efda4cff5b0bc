#include "server/serving/batcher.h"

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "google/rpc/error_details.pb.h"
#include "model/errors/errors.h"
#include "server/metrics/metrics.h"
#include "server/serving/loaded_model.h"

namespace tasuki {
namespace {

using Scores = std::vector<std::vector<float>>;

// A request that waits or is partly answered. After Submit only the executor touches it.
struct Pending {
  Batcher::Request request;
  absl::Time arrival;
  int64_t waiting_tokens = 0;  // of the inputs from `next` on
  size_t next = 0;             // first input that no forward pass has taken
  Scores scores;               // one for each input before `next`
  bool answered = false;

  void Answer(absl::StatusOr<Scores> result) {
    answered = true;
    request.done(std::move(result));
  }
};

int64_t TokenCount(const Classifier::Input& input) {
  return std::max<size_t>(1, input.tokens.size());
}

// Why a request is not worth a forward pass any more; OK if it is.
absl::Status Expiry(const Pending& pending, absl::Time now) {
  if (pending.request.cancelled != nullptr && pending.request.cancelled->load()) {
    return absl::CancelledError("The call was cancelled.");
  }
  if (pending.request.deadline <= now) {
    return MakeError(absl::StatusCode::kDeadlineExceeded, v1::DEADLINE_PASSED,
                     "The deadline passed while the request waited for its turn; nothing was "
                     "computed. Allow more time or send less.");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status DrainingError() {
  return MakeError(absl::StatusCode::kUnavailable, v1::DRAINING,
                   "The server is shutting down; try again or ask another one.");
}

class Batcher::Impl {
 public:
  Impl(const BatcherOptions& options, Metrics& metrics)
      : options_(options), metrics_(metrics), thread_([this] { Run(); }) {}

  absl::Status Submit(Request request);
  void Stop();

 private:
  struct Queue {
    std::deque<std::shared_ptr<Pending>> pending;
    int64_t tokens = 0;
  };
  // Inputs `begin` to `end` of a request, as taken for one forward pass.
  struct Slice {
    std::shared_ptr<Pending> pending;
    size_t begin = 0;
    size_t end = 0;
  };
  struct Batch {
    std::shared_ptr<const LoadedModel> model;
    std::vector<Slice> slices;  // in order of arrival
    int64_t tokens = 0;
    std::vector<std::pair<std::shared_ptr<Pending>, absl::Status>> expired;
  };

  void Run();
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !queues_.empty();
  }
  Batch Take() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Execute(Batch&& batch) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status QueueFull(const Queue& queue, int64_t tokens) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const BatcherOptions options_;
  Metrics& metrics_;

  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // Never holds an empty queue.
  std::map<const LoadedModel*, Queue> queues_ ABSL_GUARDED_BY(mutex_);
  // Running mean, so that a refused client hears when to come back.
  double seconds_per_token_ ABSL_GUARDED_BY(mutex_) = 1e-4;

  std::once_flag joined_;
  std::thread thread_;  // last: it uses everything above
};

absl::Status Batcher::Impl::QueueFull(const Queue& queue, int64_t tokens) const {
  absl::Status status =
      MakeError(absl::StatusCode::kResourceExhausted, v1::QUEUE_FULL,
                absl::StrCat("The model's queue holds ", queue.tokens, " tokens and ", tokens,
                             " more would exceed its limit of ", options_.max_queue_tokens,
                             "; try again a little later or send less."),
                {{"queue_tokens", absl::StrCat(queue.tokens)},
                 {"limit", absl::StrCat(options_.max_queue_tokens)}});
  const auto delay =
      std::clamp(absl::Seconds(seconds_per_token_ * static_cast<double>(queue.tokens)),
                 absl::Milliseconds(10), absl::Seconds(10));
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(absl::ToInt64Seconds(delay));
  retry.mutable_retry_delay()->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(delay) % 1'000'000'000));
  status.SetPayload(kRetryInfoUrl, absl::Cord(retry.SerializeAsString()));
  return status;
}

absl::Status Batcher::Impl::Submit(Request request) {
  auto pending = std::make_shared<Pending>();
  pending->arrival = absl::Now();
  for (const auto& input : request.inputs) pending->waiting_tokens += TokenCount(input);
  const LoadedModel* model = request.model.get();
  pending->request = std::move(request);

  absl::MutexLock lock(&mutex_);
  if (stopping_) {
    metrics_.CountRejection(Metrics::Rejection::kDraining);
    return DrainingError();
  }
  Queue& queue = queues_[model];
  // An empty queue takes a request of any size: it could never be answered otherwise.
  if (!queue.pending.empty() &&
      queue.tokens + pending->waiting_tokens > options_.max_queue_tokens) {
    metrics_.CountRejection(Metrics::Rejection::kQueueFull);
    return QueueFull(queue, pending->waiting_tokens);
  }
  queue.tokens += pending->waiting_tokens;
  pending->request.model->metrics->SetQueue(queue.tokens);
  queue.pending.push_back(std::move(pending));
  return absl::OkStatus();
}

Batcher::Impl::Batch Batcher::Impl::Take() {
  const auto oldest =
      std::min_element(queues_.begin(), queues_.end(), [](const auto& a, const auto& b) {
        return a.second.pending.front()->arrival < b.second.pending.front()->arrival;
      });
  Queue& queue = oldest->second;
  Batch batch;
  batch.model = queue.pending.front()->request.model;
  const absl::Time now = absl::Now();
  std::erase_if(queue.pending, [&](const std::shared_ptr<Pending>& pending) {
    // Answered already: a part of it failed, and the rest is not worth computing.
    if (!pending->answered) {
      absl::Status status = Expiry(*pending, now);
      if (status.ok()) return false;
      batch.expired.emplace_back(pending, std::move(status));
    }
    queue.tokens -= pending->waiting_tokens;
    return true;
  });
  while (!queue.pending.empty()) {
    const std::shared_ptr<Pending>& pending = queue.pending.front();
    const auto& inputs = pending->request.inputs;
    Slice slice{pending, pending->next, pending->next};
    while (slice.end < inputs.size()) {
      const int64_t tokens = TokenCount(inputs[slice.end]);
      if (batch.tokens > 0 && batch.tokens + tokens > options_.max_batch_tokens) break;
      batch.tokens += tokens;
      pending->waiting_tokens -= tokens;
      queue.tokens -= tokens;
      ++slice.end;
    }
    const bool whole = slice.end == inputs.size();
    if (slice.begin == 0 && (whole || slice.end > 0)) {
      batch.model->metrics->ObserveStage(ModelMetrics::Stage::kQueue, now - pending->arrival);
    }
    pending->next = slice.end;
    if (whole || slice.end > slice.begin) batch.slices.push_back(std::move(slice));
    if (!whole) break;
    queue.pending.pop_front();
  }
  batch.model->metrics->SetQueue(queue.tokens);
  if (queue.pending.empty()) queues_.erase(oldest);
  return batch;
}

void Batcher::Impl::Execute(Batch&& batch) {
  for (auto& [pending, status] : batch.expired) {
    if (absl::IsDeadlineExceeded(status)) metrics_.CountRejection(Metrics::Rejection::kDeadline);
    pending->Answer(std::move(status));
  }

  // Where each input's scores belong, in order of length: a pass over equal lengths wastes least.
  struct Place {
    Pending* pending;
    size_t index;
  };
  std::vector<Place> places;
  for (const Slice& slice : batch.slices) {
    slice.pending->scores.resize(slice.end);
    for (size_t i = slice.begin; i < slice.end; ++i) places.push_back({slice.pending.get(), i});
  }
  const auto input_at = [](const Place& place) {
    return &place.pending->request.inputs[place.index];
  };
  std::stable_sort(places.begin(), places.end(), [&](const Place& a, const Place& b) {
    return input_at(a)->tokens.size() < input_at(b)->tokens.size();
  });
  std::vector<const Classifier::Input*> inputs;
  inputs.reserve(places.size());
  for (const Place& place : places) inputs.push_back(input_at(place));

  absl::StatusOr<Scores> scores = Scores{};
  if (!inputs.empty()) {
    const absl::Time start = absl::Now();
    scores = batch.model->classifier->Score(inputs);
    const absl::Duration duration = absl::Now() - start;
    batch.model->metrics->ObserveStage(ModelMetrics::Stage::kForward, duration);
    batch.model->metrics->ObserveBatch(static_cast<int64_t>(inputs.size()), batch.tokens);
    const double seconds = absl::ToDoubleSeconds(duration);
    absl::MutexLock lock(&mutex_);
    seconds_per_token_ += 0.1 * (seconds / static_cast<double>(batch.tokens) - seconds_per_token_);
  }
  if (scores.ok() && scores->size() != inputs.size()) {
    scores = absl::InternalError(
        absl::StrCat("the model answered ", scores->size(), " of ", inputs.size(), " inputs"));
  }
  if (scores.ok()) {
    for (size_t i = 0; i < places.size(); ++i) {
      places[i].pending->scores[places[i].index] = std::move((*scores)[i]);
    }
  }
  for (const Slice& slice : batch.slices) {
    if (!scores.ok()) {
      slice.pending->Answer(scores.status());
    } else if (slice.end == slice.pending->request.inputs.size()) {
      slice.pending->Answer(std::move(slice.pending->scores));
    }
  }
}

void Batcher::Impl::Run() {
  while (true) {
    Batch batch;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &Impl::HasWork));
      if (queues_.empty()) return;  // stopping, and everything is answered
      batch = Take();
    }
    Execute(std::move(batch));
  }
}

void Batcher::Impl::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  std::call_once(joined_, [this] { thread_.join(); });
}

Batcher::Batcher(const BatcherOptions& options, Metrics& metrics)
    : impl_(std::make_unique<Impl>(options, metrics)) {}

Batcher::~Batcher() { impl_->Stop(); }

absl::Status Batcher::Submit(Request request) { return impl_->Submit(std::move(request)); }

void Batcher::Stop() { impl_->Stop(); }

}  // namespace tasuki
