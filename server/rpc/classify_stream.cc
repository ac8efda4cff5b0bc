#include "server/rpc/classify_stream.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/alarm.h"
#include "grpcpp/server_context.h"
#include "model/errors/errors.h"
#include "server/rpc/status.h"
#include "server/rpc/wire.h"
#include "tasuki/v1/classification.pb.h"

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
constexpr size_t kMaxIdBytes = 256;

google::rpc::Status ToProto(const absl::Status& status) {
  google::rpc::Status error;
  const grpc::Status sent = ToGrpcStatus(status);
  if (!error.ParseFromString(sent.error_details())) error.Clear();
  error.set_code(sent.error_code());
  error.set_message(sent.error_message());
  return error;
}

absl::Status CheckId(const std::string& id) {
  if (id.size() <= kMaxIdBytes) return absl::OkStatus();
  Faults faults;
  faults.Add("id",
             absl::StrCat("has ", id.size(), " bytes; at most ", kMaxIdBytes, " are allowed"));
  return faults.ToStatus();
}

}  // namespace

class ClassifyStreams::Stream : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                                public std::enable_shared_from_this<Stream> {
 public:
  Stream(ClassifyStreams& streams, grpc::CallbackServerContext& context, bool draining)
      : streams_(streams), caller_(context.peer()), draining_(draining) {}

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
  // A request on its way. Its messages are the path's between Ask and Answered.
  struct Exchange {
    grpc::ByteBuffer in, out;
    v1::StreamClassifyRequest request;
    v1::StreamClassifyResponse response;
    size_t bytes = 0;
    bool answered = false;
    bool refused = false;  // waits for room in the queue
  };

  void Ask(const std::shared_ptr<Exchange>& exchange) ABSL_LOCKS_EXCLUDED(mutex_);
  void Answered(Exchange& exchange, const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);
  void TryAgain() ABSL_LOCKS_EXCLUDED(mutex_);
  // Reads, writes and finishes as far as it goes. gRPC runs reactions on threads of its own, never
  // within a Start or Finish, so these are called with the lock held.
  void Move() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool HasRoom() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return exchanges_.size() < kMaxAhead && bytes_ < kMaxBytesAhead && !looking_for_room_;
  }
  void SetBytes(Exchange& exchange, size_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    bytes_ += bytes - exchange.bytes;
    exchange.bytes = bytes;
  }

  ClassifyStreams& streams_;
  const std::string caller_;
  const std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);

  absl::Mutex mutex_;  // never held across Run
  std::shared_ptr<Exchange> incoming_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::shared_ptr<Exchange>> exchanges_ ABSL_GUARDED_BY(mutex_);
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

void ClassifyStreams::Stream::OnReadDone(bool ok) {
  std::shared_ptr<Exchange> exchange;
  {
    absl::MutexLock lock(&mutex_);
    reading_ = false;
    exchange = std::move(incoming_);
    if (finished_) return;  // it came as the server stopped: the client is told that it did
    read_all_ = !ok;
    if (ok) exchanges_.push_back(exchange);
  }
  if (ok) {
    absl::Status status = Parse(exchange->in, exchange->request);
    exchange->in.Clear();
    if (status.ok()) status = CheckId(exchange->request.id());
    {
      absl::MutexLock lock(&mutex_);
      SetBytes(*exchange, exchange->request.ByteSizeLong() +
                              exchange->request.request().texts_size() * answer_bytes_);
    }
    if (status.ok()) {
      Ask(exchange);
    } else {
      Answered(*exchange, status);
    }
  }
  Advance();
}

void ClassifyStreams::Stream::OnWriteDone(bool ok) {
  if (!ok) cancelled_->store(true);  // nobody reads any more
  absl::MutexLock lock(&mutex_);
  writing_ = false;
  SetBytes(*exchanges_.front(), 0);
  exchanges_.pop_front();
  Move();
}

void ClassifyStreams::Stream::Ask(const std::shared_ptr<Exchange>& exchange) {
  exchange->response.Clear();
  ClassificationPath::Call call;
  call.request = &exchange->request.request();
  call.response = exchange->response.mutable_response();
  call.caller = caller_;
  call.cancelled = cancelled_;
  call.usual_priority = Priority::kBulk;
  call.waits_for_room = true;
  call.done = [self = shared_from_this(), exchange](const absl::Status& status) {
    self->Answered(*exchange, status);
  };
  streams_.path_.Run(std::move(call));
}

void ClassifyStreams::Stream::Answered(Exchange& exchange, const absl::Status& status) {
  const bool refused = ReasonOf(status) == v1::QUEUE_FULL;
  const int texts = exchange.request.request().texts_size();
  if (!refused) {
    exchange.response.set_id(exchange.request.id());
    if (!status.ok()) *exchange.response.mutable_error() = ToProto(status);
    exchange.out = Serialize(exchange.response);
    // Clear would keep the memory.
    v1::StreamClassifyRequest().Swap(&exchange.request);
    v1::StreamClassifyResponse().Swap(&exchange.response);
  }
  absl::MutexLock lock(&mutex_);
  if (refused) {
    exchange.refused = true;
  } else {
    exchange.answered = true;
    SetBytes(exchange, exchange.out.Length());
    if (texts > 0) answer_bytes_ = std::max(answer_bytes_, exchange.bytes / texts);
  }
  Move();
}

void ClassifyStreams::Stream::TryAgain() {
  std::vector<std::shared_ptr<Exchange>> refused;
  {
    absl::MutexLock lock(&mutex_);
    looking_for_room_ = false;
    for (const auto& exchange : exchanges_) {
      if (std::exchange(exchange->refused, false)) refused.push_back(exchange);
    }
  }
  for (const auto& exchange : refused) Ask(exchange);
  Advance();
}

void ClassifyStreams::Stream::Move() {
  if (finished_) return;
  const bool cancelled = cancelled_->load();
  if (cancelled && !writing_) {
    std::erase_if(exchanges_, [](const auto& exchange) { return exchange->answered; });
  }
  if (!writing_ && !exchanges_.empty() && exchanges_.front()->answered) {
    writing_ = true;
    StartWrite(&exchanges_.front()->out);
  }
  const bool refused = std::any_of(exchanges_.begin(), exchanges_.end(),
                                   [](const auto& exchange) { return exchange->refused; });
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
    incoming_ = std::make_shared<Exchange>();
    StartRead(&incoming_->in);
  }
  if (over && exchanges_.empty() && !looking_for_room_) {
    finished_ = true;
    Finish(cancelled   ? grpc::Status(grpc::StatusCode::CANCELLED, "The client went away.")
           : read_all_ ? grpc::Status::OK
                       : ToGrpcStatus(DrainingError()));
  }
}

ClassifyStreams::ClassifyStreams(ClassificationPath& path) : path_(path) {}
ClassifyStreams::~ClassifyStreams() = default;

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* ClassifyStreams::Start(
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

void ClassifyStreams::Forget(Stream* stream) {
  const std::shared_ptr<Stream> last = stream->shared_from_this();
  absl::MutexLock lock(&mutex_);
  streams_.erase(last);
}

void ClassifyStreams::Drain() {
  std::set<std::shared_ptr<Stream>> streams;
  {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
    streams = streams_;
  }
  for (const auto& stream : streams) stream->Drain();
}

}  // namespace tasuki
