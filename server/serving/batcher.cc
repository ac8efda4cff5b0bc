#include "server/serving/batcher.h"

#include <algorithm>
#include <array>
#include <compare>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "google/rpc/error_details.pb.h"
#include "model/errors/errors.h"
#include "server/metrics/metrics.h"
#include "server/serving/loaded_model.h"
#include "server/serving/pace.h"

namespace tasuki {
namespace {

using Scores = std::vector<std::vector<float>>;

// A request is taken if it would be answered within this share of the time that it has, and a pass
// takes more inputs only while it would end within this share of the time that each of its requests
// has left: an estimate may be wrong, a request waits for all of its pass, and the answer has a way
// to go.
constexpr double kShareOfTime = .5;
// While there are interactive requests, those in bulk make no longer passes than that: somebody may
// come and wait for its end.
constexpr absl::Duration kBulkPass = absl::Milliseconds(100);
constexpr absl::Duration kInteractiveLately = absl::Seconds(1);

// A version that is or was asked lately.
struct Lane {
  std::weak_ptr<const LoadedModel> model;
  Pace pace;
  double tokens_per_byte = 0;          // of texts, a running mean; 0: not known
  std::array<int64_t, 2> tokens = {};  // that wait, by priority
  int64_t before = 0;                  // of TimeUntilDone
};

// A request that waits or is partly answered. Under the lock while it waits, but for `scores` and
// `answered`, which are the batch thread's.
struct Pending {
  Batcher::Request request;
  Lane* lane = nullptr;
  absl::Time arrival;
  absl::Time taken;        // when its first input went into a forward pass
  int64_t tokens = 0;      // of the inputs from `next` on
  int64_t finish_tag = 0;  // virtual time at which it would be done
  size_t next = 0;         // first input that no forward pass has taken
  Scores scores;           // one for each input before `next`
  bool answered = false;

  void Answer(absl::StatusOr<Batcher::Answer> result) {
    answered = true;
    request.done(std::move(result));
  }
};

// Where a request stands among those of its priority.
struct Place {
  int64_t tag = 0;      // start tag: tokens of virtual time
  uint64_t number = 0;  // of arrival
  // NOLINTNEXTLINE(modernize-use-nullptr): clang-tidy 14 takes it for a 0
  auto operator<=>(const Place&) const = default;
};

// The requests of one priority that wait.
struct Order {
  std::map<Place, std::shared_ptr<Pending>> waiting;
  int64_t virtual_time = 0;
  std::unordered_map<std::string, int64_t> finish_tags;  // of each caller's last request

  int64_t StartTag(const std::string& caller) const {
    const auto found = finish_tags.find(caller);
    return found == finish_tags.end() ? virtual_time : std::max(virtual_time, found->second);
  }
  void SetFinishTag(const std::string& caller, int64_t tag) {
    finish_tags[caller] = tag;
    // Of callers who have nothing waiting any more.
    if (finish_tags.size() > 2 * waiting.size() + 64) {
      std::erase_if(finish_tags, [&](const auto& each) { return each.second <= virtual_time; });
    }
  }
  // Nobody waits: all begin anew.
  void Rest() {
    virtual_time = 0;
    finish_tags.clear();
  }
};

size_t IndexOf(Priority priority) { return static_cast<size_t>(priority); }

int64_t TokenCount(const Classifier::Input& input) {
  return std::max<size_t>(1, input.tokens.size());
}

absl::Status DeadlineError() {
  return MakeError(absl::StatusCode::kDeadlineExceeded, v1::DEADLINE_PASSED,
                   "The request could not be answered before its deadline, and nothing was "
                   "computed. Allow more time or send less.");
}

// Why a request is not worth a forward pass any more; OK if it is.
absl::Status Expiry(const Batcher::Request& request, absl::Time now) {
  // The deadline first: when it passes gRPC cancels the call.
  if (request.deadline <= now) return DeadlineError();
  if (request.cancelled != nullptr && request.cancelled->load()) {
    return absl::CancelledError("The call was cancelled.");
  }
  return absl::OkStatus();
}

absl::Status QueueFull(absl::string_view why, absl::Duration delay,
                       const std::map<std::string, std::string>& metadata = {}) {
  absl::Status status =
      MakeError(absl::StatusCode::kResourceExhausted, v1::QUEUE_FULL,
                absl::StrCat(why, "; try again a little later or send less."), metadata);
  delay = std::clamp(delay, absl::Milliseconds(10), absl::Seconds(10));
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(absl::ToInt64Seconds(delay));
  retry.mutable_retry_delay()->set_nanos(
      static_cast<int32_t>(absl::ToInt64Nanoseconds(delay) % 1'000'000'000));
  status.SetPayload(kRetryInfoUrl, absl::Cord(retry.SerializeAsString()));
  return status;
}

}  // namespace

class Batcher::Impl {
 public:
  Impl(const BatcherOptions& options, Metrics& metrics)
      : options_(options), metrics_(metrics), thread_([this] { Run(); }) {}

  absl::Status Admit(const Request& request, absl::Span<const int64_t> input_bytes);
  absl::Status Submit(Request request);
  void Stop();

 private:
  // Inputs `begin` to `end` of a request, as taken for one forward pass.
  struct Slice {
    std::shared_ptr<Pending> pending;
    size_t begin = 0;
    size_t end = 0;
  };
  struct Batch {
    absl::Time begin;
    std::shared_ptr<const LoadedModel> model;
    Lane* lane = nullptr;
    std::vector<Slice> slices;  // in the order of their places
    int64_t tokens = 0;
    absl::Duration longest = absl::InfiniteDuration();
    absl::Time earliest_deadline = absl::InfiniteFuture();
    std::vector<std::pair<std::shared_ptr<Pending>, absl::Status>> dropped;
  };

  // ---- Taken or refused ----
  Lane& LaneOf(const std::shared_ptr<const LoadedModel>& model)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether the server goes on, and the request is worth a forward pass.
  absl::Status CheckLife(const Request& request, absl::Time now) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // OK, and what has to be pushed out for the request; or why it is refused.
  absl::Status CheckRoom(const Request& request, int64_t tokens, Lane& lane,
                         std::vector<Place>& pushed_out) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckTime(const Request& request, int64_t tokens, Lane& lane, absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountRejection(const absl::Status& status, const Request& request);

  // ---- Taken out ----
  // What waits no longer; its caller is owed what was not computed.
  std::shared_ptr<Pending> Remove(Order& order, const Place& place)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Batch Take() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropDead(Order& order, Batch& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Fill(Order& order, Batch& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes of one request what fits; false if something is left of it.
  bool TakeInputs(Order& order, const Place& place, Batch& batch)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void AddTokens(Pending& pending, int64_t tokens) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // ---- The batch thread ----
  void Run();
  bool NothingWaits() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return orders_[0].waiting.empty() && orders_[1].waiting.empty();
  }
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !NothingWaits();
  }
  bool HasFullBatch() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || waiting_tokens_ >= options_.max_batch_tokens;
  }
  absl::Time OldestArrival() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Execute(Batch& batch) ABSL_LOCKS_EXCLUDED(mutex_);

  const BatcherOptions options_;
  Metrics& metrics_;

  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::array<Order, 2> orders_ ABSL_GUARDED_BY(mutex_);  // by priority
  int64_t waiting_tokens_ ABSL_GUARDED_BY(mutex_) = 0;   // of both
  uint64_t last_number_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<const LoadedModel*, Lane> lanes_ ABSL_GUARDED_BY(mutex_);
  absl::Time last_interactive_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  // When the pass under way should end.
  absl::Time busy_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();

  std::once_flag joined_;
  std::thread thread_;  // last: it uses everything above
};

// ---- Taken or refused --------------------------------------------------------------------------

Lane& Batcher::Impl::LaneOf(const std::shared_ptr<const LoadedModel>& model) {
  const auto [found, added] = lanes_.try_emplace(model.get());
  if (found->second.model.lock() != model) {  // it is new, or another one was at its address
    found->second = Lane();
    found->second.model = model;
    std::erase_if(lanes_, [](const auto& each) { return each.second.model.expired(); });
  }
  return found->second;
}

absl::Status Batcher::Impl::CheckLife(const Request& request, absl::Time now) const {
  return stopping_ ? DrainingError() : Expiry(request, now);
}

absl::Status Batcher::Impl::CheckRoom(const Request& request, int64_t tokens, Lane& lane,
                                      std::vector<Place>& pushed_out) {
  const int64_t waiting = lane.tokens[0] + lane.tokens[1];
  // An empty queue takes a request of any size: it could never be answered otherwise.
  if (waiting == 0 || waiting + tokens <= options_.max_queue_tokens) return absl::OkStatus();
  int64_t room = options_.max_queue_tokens - waiting;
  const int64_t start = orders_[IndexOf(request.priority)].StartTag(request.caller);
  for (size_t i = orders_.size(); i-- > IndexOf(request.priority) && room < tokens;) {
    const bool same = i == IndexOf(request.priority);
    const auto& waiting_here = orders_[i].waiting;
    for (auto each = waiting_here.rbegin(); each != waiting_here.rend() && room < tokens; ++each) {
      const auto& [place, pending] = *each;
      if (same && place.tag < start) break;
      if (pending->lane != &lane || pending->next > 0) continue;
      if (same && pending->finish_tag <= start + tokens) continue;
      room += pending->tokens;
      pushed_out.push_back(place);
    }
  }
  if (room >= tokens) return absl::OkStatus();
  return QueueFull(absl::StrCat("The model's queue holds ", waiting, " tokens and ", tokens,
                                " more would exceed its limit of ", options_.max_queue_tokens),
                   lane.pace.Of(tokens - room, options_.max_batch_tokens),
                   {{"queue_tokens", absl::StrCat(waiting)},
                    {"limit", absl::StrCat(options_.max_queue_tokens)}});
}

absl::Status Batcher::Impl::CheckTime(const Request& request, int64_t tokens, Lane& lane,
                                      absl::Time now) {
  if (request.deadline == absl::InfiniteFuture()) return absl::OkStatus();
  const Order& order = orders_[IndexOf(request.priority)];
  const bool bulk = request.priority == Priority::kBulk;
  for (auto& [model, each] : lanes_) each.before = each.tokens[0] + (bulk ? each.tokens[1] : 0);
  const int64_t start = order.StartTag(request.caller);
  for (auto each = order.waiting.rbegin(); each != order.waiting.rend(); ++each) {
    if (each->first.tag <= start) break;
    each->second->lane->before -= each->second->tokens;
  }
  absl::Duration wait = std::max(absl::ZeroDuration(), busy_until_ - now);
  const bool alone = wait == absl::ZeroDuration() &&
                     std::none_of(lanes_.begin(), lanes_.end(),
                                  [](const auto& each) { return each.second.before > 0; });
  // What stands before nobody is tried: estimates would never be corrected otherwise.
  if (alone) return absl::OkStatus();
  lane.before += tokens;
  for (const auto& [model, each] : lanes_) {
    if (each.before > 0) wait += each.pace.Of(each.before, options_.max_batch_tokens);
  }
  const absl::Duration left = request.deadline - now;
  if (wait <= left * kShareOfTime) return absl::OkStatus();
  return QueueFull(
      absl::StrCat("What waits takes about ", absl::ToInt64Milliseconds(wait),
                   " ms, too long for a deadline in ", absl::ToInt64Milliseconds(left), " ms"),
      wait - left * kShareOfTime);
}

void Batcher::Impl::CountRejection(const absl::Status& status, const Request& request) {
  if (request.waits_for_room && absl::IsResourceExhausted(status)) return;
  metrics_.CountRejection(absl::IsUnavailable(status)        ? Metrics::Rejection::kDraining
                          : absl::IsDeadlineExceeded(status) ? Metrics::Rejection::kDeadline
                          : absl::IsCancelled(status)        ? Metrics::Rejection::kCancelled
                                                             : Metrics::Rejection::kQueueFull,
                          request.priority);
}

absl::Status Batcher::Impl::Admit(const Request& request, absl::Span<const int64_t> input_bytes) {
  const int64_t most = request.model->classifier->manifest().max_input_tokens();
  absl::MutexLock lock(&mutex_);
  Lane& lane = LaneOf(request.model);
  int64_t tokens = 0;
  for (const int64_t bytes : input_bytes) {
    const double some = static_cast<double>(bytes) * lane.tokens_per_byte;
    tokens += std::clamp<int64_t>(static_cast<int64_t>(some), 1, std::max<int64_t>(1, most));
  }
  const absl::Time now = absl::Now();
  std::vector<Place> pushed_out;
  absl::Status status = CheckLife(request, now);
  if (status.ok()) status = CheckRoom(request, tokens, lane, pushed_out);
  if (status.ok()) status = CheckTime(request, tokens, lane, now);
  if (!status.ok()) CountRejection(status, request);
  return status;
}

absl::Status Batcher::Impl::Submit(Request request) {
  auto pending = std::make_shared<Pending>();
  int64_t tokens = 0, whole_tokens = 0;
  for (const auto& input : request.inputs) {
    tokens += TokenCount(input);
    whole_tokens += input.token_count;
  }
  std::vector<std::shared_ptr<Pending>> pushed_out;
  {
    absl::MutexLock lock(&mutex_);
    Lane& lane = LaneOf(request.model);
    if (request.bytes > 0) {
      const double seen = static_cast<double>(whole_tokens) / static_cast<double>(request.bytes);
      double& mean = lane.tokens_per_byte;
      mean = mean == 0 ? seen : mean + .05 * (seen - mean);
    }
    std::vector<Place> places;
    absl::Status status = CheckLife(request, absl::Now());
    if (status.ok()) status = CheckRoom(request, tokens, lane, places);
    if (!status.ok()) {
      CountRejection(status, request);
      return status;
    }
    for (const Place& place : places) {
      const bool here = orders_[0].waiting.contains(place);  // numbers are not given twice
      pushed_out.push_back(Remove(orders_[here ? 0 : 1], place));
    }
    pending->request = std::move(request);
    pending->lane = &lane;
    pending->arrival = absl::Now();
    if (pending->request.priority == Priority::kInteractive) last_interactive_ = pending->arrival;
    Order& order = orders_[IndexOf(pending->request.priority)];
    const Place place = {order.StartTag(pending->request.caller), ++last_number_};
    pending->finish_tag = place.tag + tokens;
    order.SetFinishTag(pending->request.caller, pending->finish_tag);
    AddTokens(*pending, tokens);
    order.waiting.emplace(place, std::move(pending));
  }
  for (const auto& each : pushed_out) {
    const absl::Status status =
        QueueFull("The model's queue is full, and others go first", absl::Seconds(1));
    CountRejection(status, each->request);
    each->Answer(status);
  }
  return absl::OkStatus();
}

// ---- Taken out ---------------------------------------------------------------------------------

void Batcher::Impl::AddTokens(Pending& pending, int64_t tokens) {
  pending.tokens += tokens;
  pending.lane->tokens[IndexOf(pending.request.priority)] += tokens;
  waiting_tokens_ += tokens;
  pending.request.model->metrics->SetQueue(pending.lane->tokens[0] + pending.lane->tokens[1]);
}

std::shared_ptr<Pending> Batcher::Impl::Remove(Order& order, const Place& place) {
  std::shared_ptr<Pending> pending = std::move(order.waiting.extract(place).mapped());
  const auto tag = order.finish_tags.find(pending->request.caller);
  if (tag != order.finish_tags.end()) tag->second -= pending->tokens;
  AddTokens(*pending, -pending->tokens);
  if (order.waiting.empty()) order.Rest();
  return pending;
}

void Batcher::Impl::DropDead(Order& order, Batch& batch) {
  std::vector<std::pair<Place, absl::Status>> dead;
  for (const auto& [place, pending] : order.waiting) {
    // Answered already: a part of it failed, and the rest is not worth computing.
    absl::Status status = pending->answered ? absl::CancelledError("A part of it failed.")
                                            : Expiry(pending->request, batch.begin);
    if (!status.ok()) dead.emplace_back(place, std::move(status));
  }
  for (auto& [place, status] : dead) {
    batch.dropped.emplace_back(Remove(order, place), std::move(status));
  }
}

bool Batcher::Impl::TakeInputs(Order& order, const Place& place, Batch& batch) {
  const auto node = order.waiting.find(place);
  const std::shared_ptr<Pending> pending = node->second;
  const auto& inputs = pending->request.inputs;
  Slice slice{pending, pending->next, pending->next};
  int64_t taken = 0;
  for (; slice.end < inputs.size(); ++slice.end) {
    const int64_t tokens = TokenCount(inputs[slice.end]);
    const int64_t sum = batch.tokens + tokens;
    if (batch.tokens > 0) {
      const absl::Duration time = pending->lane->pace.Of(sum, options_.max_batch_tokens);
      if (sum > options_.max_batch_tokens || time > batch.longest ||
          time > (batch.earliest_deadline - batch.begin) * kShareOfTime) {
        break;
      }
    }
    batch.tokens = sum;
    taken += tokens;
  }
  const bool whole = slice.end == inputs.size();
  if (!whole && taken == 0) return false;
  batch.model = pending->request.model;
  batch.lane = pending->lane;
  batch.earliest_deadline = std::min(batch.earliest_deadline, pending->request.deadline);
  if (slice.begin == 0) {
    pending->taken = batch.begin;
    batch.model->metrics->ObserveStage(ModelMetrics::Stage::kQueue, batch.begin - pending->arrival);
  }
  pending->next = slice.end;
  AddTokens(*pending, -taken);
  batch.slices.push_back(std::move(slice));
  order.virtual_time = std::max(order.virtual_time, place.tag);
  order.waiting.erase(node);
  if (!whole) order.waiting.emplace(Place{place.tag + taken, place.number}, pending);
  if (order.waiting.empty()) order.Rest();
  return whole;
}

void Batcher::Impl::Fill(Order& order, Batch& batch) {
  std::vector<Place> late;
  for (auto each = order.waiting.begin(); each != order.waiting.end();) {
    const Place place = each->first;
    const Pending& pending = *each->second;
    ++each;
    if (batch.lane != nullptr && pending.lane != batch.lane) continue;
    const absl::Duration time =
        pending.lane->pace.Of(batch.tokens + pending.tokens, options_.max_batch_tokens);
    if (batch.begin + time > pending.request.deadline) {
      late.push_back(place);
    } else if (!TakeInputs(order, place, batch)) {
      break;
    }
  }
  if (batch.slices.empty() && !late.empty()) {
    // Nothing can be done in time, as far as one knows: the first is tried all the same, so that a
    // wrong estimate does not last.
    TakeInputs(order, late.front(), batch);
    return;
  }
  for (const Place& place : late) {
    batch.dropped.emplace_back(Remove(order, place), DeadlineError());
  }
}

Batcher::Impl::Batch Batcher::Impl::Take() {
  Batch batch;
  batch.begin = absl::Now();
  for (Order& order : orders_) DropDead(order, batch);
  // A pass is of one priority: what is interactive does not wait for the end of more.
  Fill(orders_[0], batch);
  if (batch.slices.empty()) {
    if (batch.begin - last_interactive_ < kInteractiveLately) batch.longest = kBulkPass;
    Fill(orders_[1], batch);
  }
  if (batch.lane != nullptr) {
    busy_until_ = batch.begin + batch.lane->pace.Of(batch.tokens, options_.max_batch_tokens);
  }
  return batch;
}

// ---- The batch thread --------------------------------------------------------------------------

void Batcher::Impl::Execute(Batch& batch) {
  for (auto& [pending, status] : batch.dropped) {
    if (pending->answered) continue;
    CountRejection(status, pending->request);
    pending->Answer(std::move(status));
  }
  // Answering took its time: what expired meanwhile is not computed either.
  std::erase_if(batch.slices, [&, now = absl::Now()](const Slice& slice) {
    Pending& pending = *slice.pending;
    if (pending.request.deadline > now) return false;
    CountRejection(DeadlineError(), pending.request);
    pending.Answer(DeadlineError());
    return true;
  });
  if (batch.slices.empty()) return;

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
    metrics_.CountExpiredExecutions(std::count_if(
        batch.slices.begin(), batch.slices.end(),
        [&](const Slice& slice) { return slice.pending->request.deadline <= start; }));
    Pass pass;
    scores = batch.model->classifier->Score(inputs, pass);
    ModelMetrics& observed = *batch.model->metrics;
    observed.ObserveStage(ModelMetrics::Stage::kEncode, pass.encode);
    observed.ObserveStage(ModelMetrics::Stage::kDecode, pass.decode);
    observed.ObserveBatch(static_cast<int64_t>(inputs.size()), batch.tokens, pass.padding_tokens);
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
  const absl::Time end = absl::Now();
  for (const Slice& slice : batch.slices) {
    Pending& pending = *slice.pending;
    if (!scores.ok()) {
      pending.Answer(scores.status());
    } else if (slice.end == pending.request.inputs.size()) {
      pending.Answer(
          Answer{std::move(pending.scores), pending.taken - pending.arrival, end - pending.taken});
    }
  }
  batch.model->metrics->ObserveStage(ModelMetrics::Stage::kPostprocess, absl::Now() - end);
}

absl::Time Batcher::Impl::OldestArrival() const {
  absl::Time oldest = absl::InfiniteFuture();
  for (const Order& order : orders_) {
    for (const auto& each : order.waiting) oldest = std::min(oldest, each.second->arrival);
  }
  return oldest;
}

void Batcher::Impl::Run() {
  while (true) {
    Batch batch;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &Impl::HasWork));
      if (options_.max_delay > absl::ZeroDuration()) {
        mutex_.AwaitWithDeadline(absl::Condition(this, &Impl::HasFullBatch),
                                 OldestArrival() + options_.max_delay);
      }
      if (NothingWaits()) return;  // stopping, and everything is answered
      batch = Take();
    }
    Execute(batch);
    absl::MutexLock lock(&mutex_);
    busy_until_ = absl::InfinitePast();
    if (batch.tokens > 0) batch.lane->pace.Observe(batch.tokens, absl::Now() - batch.begin);
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

absl::Status Batcher::Admit(const Request& request, absl::Span<const int64_t> input_bytes) {
  return impl_->Admit(request, input_bytes);
}

absl::Status Batcher::Submit(Request request) { return impl_->Submit(std::move(request)); }

void Batcher::Stop() { impl_->Stop(); }

}  // namespace tasuki
