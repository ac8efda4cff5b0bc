// Client::StreamClassify: one thread, the caller's, writes and reads one stream by way of a
// completion queue, so that neither waits for the other.

#include <algorithm>
#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/client.h"
#include "client/connection.h"
#include "client/errors.h"

namespace tasuki {
namespace {

// What is written ahead of its answer: more than a server reads ahead, so that it never waits.
constexpr size_t kMaxAhead = 96;
constexpr size_t kMaxBytesAhead = 1 << 20;

bool MayGoBetter(const absl::Status& status) {
  return absl::IsUnavailable(status) || RetryDelayOf(status).has_value();
}

// Requests on their way to their answers, over as many streams as it takes.
class Flow {
 public:
  Flow(v1::ClassificationService::Stub& stub, absl::Duration timeout,
       const NextClassification& next, const UseClassification& use)
      : stub_(stub), timeout_(timeout), next_(next), use_(use) {}

  // Runs one stream until it ends; OK where this side ended it.
  grpc::Status Run(grpc::ClientContext& context);

  // What ended the flow on this side: an error of `next`, `use` or a request, or no answer in time.
  const absl::Status& failure() const { return failure_; }
  // What ended the stream on this side: an error of a request that may go better in a moment.
  const absl::Status& setback() const { return setback_; }
  int64_t answered() const { return answered_; }
  bool done() const { return !more_ && asked_.empty(); }

 private:
  enum Event : intptr_t { kStarted, kRead, kWritten, kFinished };
  using Stream =
      grpc::ClientAsyncReaderWriter<v1::StreamClassifyRequest, v1::StreamClassifyResponse>;

  static void* Tag(Event event) { return reinterpret_cast<void*>(event); }
  // The next request that is to be written; null if there is none now.
  const v1::ClassifyRequest* ToWrite();
  void WriteOn(Stream& stream);
  void Use(const v1::StreamClassifyResponse& answer);
  bool ended() const { return !failure_.ok() || !setback_.ok(); }

  v1::ClassificationService::Stub& stub_;
  const absl::Duration timeout_;
  const NextClassification& next_;
  const UseClassification& use_;

  std::deque<v1::ClassifyRequest> asked_;  // not answered
  size_t bytes_ = 0;                       // of these
  bool more_ = true;                       // `next` may have some
  int64_t answered_ = 0;
  absl::Status failure_;
  // Of the stream.
  absl::Status setback_;
  size_t written_ = 0;  // of asked_
  bool writing_ = false, closed_ = false;
};

const v1::ClassifyRequest* Flow::ToWrite() {
  if (written_ == asked_.size() && more_ && asked_.size() < kMaxAhead && bytes_ < kMaxBytesAhead) {
    auto request = next_();
    if (!request.ok()) {
      failure_ = request.status();
      return nullptr;
    }
    more_ = request->has_value();
    if (more_) {
      bytes_ += (*request)->ByteSizeLong();
      asked_.push_back(**std::move(request));
    }
  }
  return written_ < asked_.size() ? &asked_[written_] : nullptr;
}

void Flow::WriteOn(Stream& stream) {
  if (writing_ || closed_ || ended()) return;
  if (const v1::ClassifyRequest* request = ToWrite()) {
    v1::StreamClassifyRequest message;
    *message.mutable_request() = *request;
    ++written_;
    writing_ = true;
    stream.Write(message, Tag(kWritten));
  } else if (!more_) {
    closed_ = writing_ = true;
    stream.WritesDone(Tag(kWritten));
  }
}

void Flow::Use(const v1::StreamClassifyResponse& answer) {
  if (written_ == 0) {
    failure_ = absl::DataLossError("the server answered what nobody asked");
  } else if (answer.has_error()) {
    failure_ = StatusOf(answer.error());
    if (failure_.ok())
      failure_ = absl::DataLossError("the server answered an error without a code");
    if (MayGoBetter(failure_)) std::swap(failure_, setback_);
  } else {
    failure_ = use_(asked_.front(), answer.response());
  }
  if (ended()) return;
  bytes_ -= asked_.front().ByteSizeLong();
  asked_.pop_front();
  --written_;
  ++answered_;
}

grpc::Status Flow::Run(grpc::ClientContext& context) {
  written_ = 0;
  writing_ = closed_ = false;
  setback_ = absl::OkStatus();
  grpc::CompletionQueue events;
  const std::unique_ptr<Stream> stream = stub_.PrepareAsyncStreamClassify(&context, &events);
  v1::StreamClassifyResponse answer;
  grpc::Status status;
  stream->StartCall(Tag(kStarted));
  while (true) {
    void* tag = nullptr;
    bool ok = false;
    const auto until =
        ended() ? std::chrono::system_clock::time_point::max()  // gRPC ends what was cancelled
                : absl::ToChronoTime(absl::Now() + timeout_);
    if (events.AsyncNext(&tag, &ok, until) == grpc::CompletionQueue::TIMEOUT) {
      failure_ = absl::DeadlineExceededError(
          absl::StrCat("no answer within ", absl::FormatDuration(timeout_)));
      context.TryCancel();
      continue;
    }
    switch (static_cast<Event>(reinterpret_cast<intptr_t>(tag))) {
      case kFinished:
        events.Shutdown();
        while (events.Next(&tag, &ok)) {
        }  // a write may not have come back yet
        return ended() ? grpc::Status::OK : status;
      case kWritten:
        writing_ = false;
        break;
      case kRead:
        if (ok && !ended()) Use(answer);
        [[fallthrough]];
      case kStarted:
        if (ok) {
          stream->Read(&answer, Tag(kRead));
        } else {
          closed_ = true;  // the stream has ended, and its status says how
          stream->Finish(&status, Tag(kFinished));
        }
    }
    WriteOn(*stream);
    if (ended()) context.TryCancel();
  }
}

}  // namespace

absl::Status Client::StreamClassify(const NextClassification& next, const UseClassification& use,
                                    const std::function<void(const absl::Status&)>& on_lost) {
  const ClientOptions& options = connection_->options;
  Flow flow(*connection_->classification, options.classify_timeout, next, use);
  absl::Duration backoff = options.first_backoff;
  absl::Time lost_since = absl::InfiniteFuture();
  int64_t answered = 0;
  while (true) {
    absl::Status status = connection_->Try(
        absl::InfiniteFuture(), [&](grpc::ClientContext& context) { return flow.Run(context); });
    if (!flow.failure().ok()) return flow.failure();
    if (!flow.setback().ok()) status = flow.setback();
    if (status.ok() && !flow.done()) status = absl::UnavailableError("the server ended the stream");
    if (!MayGoBetter(status)) return status;
    if (std::exchange(answered, flow.answered()) < answered) {  // it came on
      lost_since = absl::InfiniteFuture();
      backoff = options.first_backoff;
    }
    lost_since = std::min(lost_since, absl::Now());
    if (absl::Now() - lost_since >= options.patience) return status;
    if (on_lost) on_lost(status);
    const absl::Duration wait = std::max(backoff, RetryDelayOf(status).value_or(backoff));
    if (!connection_->Wait(wait, absl::InfiniteFuture())) {
      return absl::CancelledError("the call was stopped");
    }
    backoff = std::min(backoff * 2, options.max_backoff);
  }
}

}  // namespace tasuki
