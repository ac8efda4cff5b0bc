#include "server/rpc/ordered_streams.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "grpcpp/alarm.h"
#include "grpcpp/server_context.h"
#include "model/errors/errors.h"
#include "server/rpc/access.h"
#include "server/rpc/status.h"

namespace tasuki {
namespace {

// A stream reads on while fewer than so many of its requests wait to be answered or written: enough
// of one text each to fill a forward pass while the next one gathers.
constexpr size_t kMaxAhead = 64;
// And while these and their answers have fewer bytes than that: some 50,000 tokens, so that one
// stream hardly fills a queue. With one message more at most, this is what a stream costs.
constexpr size_t kMaxBytesAhead = 256 << 10;
// How often room in a full queue is looked for. Trying costs microseconds.
constexpr absl::Duration kLookForRoom = absl::Milliseconds(20);

}  // namespace

class OrderedStreams::Stream : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                               public std::enable_shared_from_this<Stream> {
 public:
  Stream(OrderedStreams& streams, grpc::CallbackServerContext& context, bool draining)
      : streams_(streams), caller_(CallerOf(context)), draining_(draining) {}

  void Advance() {
    absl::MutexLock lock(&mutex_);
    Move();
  }
  void Drain() {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
    Move();
  }

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override {
    cancelled_->store(true);
    Advance();
  }
  void OnDone() override { streams_.Forget(this); }

 private:
  // A request on its way.
  struct Turn {
    grpc::ByteBuffer in, out;
    std::unique_ptr<Exchange> exchange;
    size_t bytes = 0;
    bool answered = false;
    bool refused = false;  // waits for room in the queue
  };

  void Ask(const std::shared_ptr<Turn>& turn) ABSL_LOCKS_EXCLUDED(mutex_);
  void Answered(Turn& turn, const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);
  void TryAgain() ABSL_LOCKS_EXCLUDED(mutex_);
  // Reads, writes and finishes as far as it goes. gRPC runs reactions on threads of its own, never
  // within a Start or Finish, so these are called with the lock held.
  void Move() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasRoom() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return turns_.size() < kMaxAhead && bytes_ < kMaxBytesAhead && !looking_for_room_;
  }
  void SetBytes(Turn& turn, size_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    bytes_ += bytes - turn.bytes;
    turn.bytes = bytes;
  }

  OrderedStreams& streams_;
  const std::string caller_;
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);

  absl::Mutex mutex_;  // never held across Run
  std::shared_ptr<Turn> incoming_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::shared_ptr<Turn>> turns_ ABSL_GUARDED_BY(mutex_);
  size_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;         // of all of these
  size_t answer_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // most that the answer to a text had
  std::unique_ptr<grpc::Alarm> alarm_ ABSL_GUARDED_BY(mutex_);
  bool looking_for_room_ ABSL_GUARDED_BY(mutex_) = false;  // the alarm is set
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool read_all_ ABSL_GUARDED_BY(mutex_) = false;  // the client writes no more
  bool draining_ ABSL_GUARDED_BY(mutex_);
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

void OrderedStreams::Stream::OnReadDone(bool ok) {
  std::shared_ptr<Turn> turn;
  {
    absl::MutexLock lock(&mutex_);
    reading_ = false;
    turn = std::move(incoming_);
    if (finished_) return;  // it came as the server stopped: the client is told that it did
    read_all_ = !ok;
    if (ok) turns_.push_back(turn);
  }
  if (ok) {
    turn->exchange = streams_.make_exchange_();
    const absl::Status status = turn->exchange->Read(turn->in);
    turn->in.Clear();
    {
      absl::MutexLock lock(&mutex_);
      SetBytes(*turn, turn->exchange->request_bytes() + turn->exchange->texts() * answer_bytes_);
    }
    if (status.ok()) {
      Ask(turn);
    } else {
      Answered(*turn, status);
    }
  }
  Advance();
}

void OrderedStreams::Stream::OnWriteDone(bool ok) {
  if (!ok) cancelled_->store(true);  // nobody reads any more
  absl::MutexLock lock(&mutex_);
  writing_ = false;
  SetBytes(*turns_.front(), 0);
  turns_.pop_front();
  Move();
}

void OrderedStreams::Stream::Ask(const std::shared_ptr<Turn>& turn) {
  ClassificationPath::Call call;
  call.caller = caller_;
  call.cancelled = cancelled_;
  call.waits_for_room = true;
  call.done = [self = shared_from_this(), turn](const absl::Status& status) {
    self->Answered(*turn, status);
  };
  turn->exchange->Ask(std::move(call));
}

void OrderedStreams::Stream::Answered(Turn& turn, const absl::Status& status) {
  const bool refused = ReasonOf(status) == v1::QUEUE_FULL;
  const int texts = turn.exchange->texts();
  if (!refused) turn.out = turn.exchange->Answer(status);
  absl::MutexLock lock(&mutex_);
  if (refused) {
    turn.refused = true;
  } else {
    turn.answered = true;
    SetBytes(turn, turn.out.Length());
    if (texts > 0) answer_bytes_ = std::max(answer_bytes_, turn.bytes / texts);
  }
  Move();
}

void OrderedStreams::Stream::TryAgain() {
  std::vector<std::shared_ptr<Turn>> refused;
  {
    absl::MutexLock lock(&mutex_);
    looking_for_room_ = false;
    for (const auto& turn : turns_) {
      if (std::exchange(turn->refused, false)) refused.push_back(turn);
    }
  }
  for (const auto& turn : refused) Ask(turn);
  Advance();
}

void OrderedStreams::Stream::Move() {
  if (finished_) return;
  const bool cancelled = cancelled_->load();
  if (cancelled && !writing_) {
    std::erase_if(turns_, [](const auto& turn) { return turn->answered; });
  }
  if (!writing_ && !turns_.empty() && turns_.front()->answered) {
    writing_ = true;
    StartWrite(&turns_.front()->out);
  }
  const bool refused =
      std::any_of(turns_.begin(), turns_.end(), [](const auto& turn) { return turn->refused; });
  if (refused && !looking_for_room_) {
    looking_for_room_ = true;
    // A new one each time: this may be within the call of the last.
    alarm_ = std::make_unique<grpc::Alarm>();
    alarm_->Set(absl::ToChronoTime(absl::Now() + kLookForRoom), [this](bool) {
      const auto self = shared_from_this();  // not finished before
      TryAgain();
    });
  }
  const bool over = read_all_ || draining_ || cancelled;
  if (!over && !reading_ && HasRoom()) {
    reading_ = true;
    incoming_ = std::make_shared<Turn>();
    StartRead(&incoming_->in);
  }
  if (over && turns_.empty() && !looking_for_room_) {
    finished_ = true;
    Finish(cancelled   ? grpc::Status(grpc::StatusCode::CANCELLED, "The client went away.")
           : read_all_ ? grpc::Status::OK
                       : ToGrpcStatus(DrainingError()));
  }
}

OrderedStreams::OrderedStreams(std::function<std::unique_ptr<Exchange>()> make_exchange)
    : make_exchange_(std::move(make_exchange)) {}
OrderedStreams::~OrderedStreams() = default;

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* OrderedStreams::Start(
    grpc::CallbackServerContext& context) {
  std::shared_ptr<Stream> stream;
  {
    absl::MutexLock lock(&mutex_);
    stream = std::make_shared<Stream>(*this, context, draining_);
    streams_.insert(stream);
  }
  stream->Advance();
  return stream.get();
}

void OrderedStreams::Forget(Stream* stream) {
  const std::shared_ptr<Stream> last = stream->shared_from_this();
  absl::MutexLock lock(&mutex_);
  streams_.erase(last);
}

void OrderedStreams::Drain() {
  std::set<std::shared_ptr<Stream>> streams;
  {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
    streams = streams_;
  }
  for (const auto& stream : streams) stream->Drain();
}

}  // namespace tasuki
