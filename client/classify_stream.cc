// Client::ClassifyStream: one thread, the caller's, writes and reads one stream by way of a
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

// Requests on their way to their answers, over as many streams as it takes.
class Flow {
 public:
  Flow(Client& client, v1::ClassificationService::Stub& stub, absl::Duration patience,
       const NextClassification& next, const UseClassification& use)
      : client_(client), stub_(stub), patience_(patience), next_(next), use_(use) {}

  // Runs one stream until it ends.
  grpc::Status Run(grpc::ClientContext& context);

  // What ended the flow on this side: an error of `next`, `use` or a request, or no answer in time.
  const absl::Status& failure() const { return failure_; }
  int64_t answered() const { return answered_; }

 private:
  enum Event : intptr_t { kStarted, kRead, kWritten, kFinished };
  using Stream =
      grpc::ClientAsyncReaderWriter<v1::StreamClassifyRequest, v1::StreamClassifyResponse>;

  static void* Tag(Event event) { return reinterpret_cast<void*>(event); }
  // The next request that is to be written; null if there is none now.
  const v1::ClassifyRequest* ToWrite();
  void WriteOn(Stream& stream);
  absl::Status Use(const v1::StreamClassifyResponse& answer);

  Client& client_;
  v1::ClassificationService::Stub& stub_;
  const absl::Duration patience_;
  const NextClassification& next_;
  const UseClassification& use_;

  std::deque<v1::ClassifyRequest> asked_;  // not answered
  size_t bytes_ = 0;                       // of these
  bool more_ = true;                       // `next` may have some
  int64_t answered_ = 0;
  absl::Status failure_;
  // Of the stream.
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
  if (writing_ || closed_ || !failure_.ok()) return;
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

absl::Status Flow::Use(const v1::StreamClassifyResponse& answer) {
  if (written_ == 0) return absl::DataLossError("the server answered what nobody asked");
  absl::StatusOr<v1::ClassifyResponse> response = answer.response();
  if (answer.has_error()) {
    const absl::Status error = StatusFromProto(answer.error());
    response =
        error.ok() ? absl::DataLossError("the server answered an error without a code") : error;
    // What may be better in a moment is asked again by itself, as often as a call is.
    if (absl::IsUnavailable(response.status()) || RetryDelayOf(response.status()).has_value()) {
      response = client_.Classify(asked_.front());
    }
  }
  if (!response.ok()) return response.status();
  if (absl::Status status = use_(asked_.front(), *response); !status.ok()) return status;
  bytes_ -= asked_.front().ByteSizeLong();
  asked_.pop_front();
  --written_;
  ++answered_;
  return absl::OkStatus();
}

grpc::Status Flow::Run(grpc::ClientContext& context) {
  written_ = 0;
  writing_ = closed_ = false;
  grpc::CompletionQueue events;
  const std::unique_ptr<Stream> stream = stub_.PrepareAsyncStreamClassify(&context, &events);
  v1::StreamClassifyResponse answer;
  grpc::Status status;
  stream->StartCall(Tag(kStarted));
  while (true) {
    void* tag = nullptr;
    bool ok = false;
    const auto until =
        failure_.ok()
            ? absl::ToChronoTime(absl::Now() + patience_)
            : std::chrono::system_clock::time_point::max();  // gRPC ends what was cancelled
    if (events.AsyncNext(&tag, &ok, until) == grpc::CompletionQueue::TIMEOUT) {
      failure_ = absl::DeadlineExceededError(
          absl::StrCat("no answer within ", absl::FormatDuration(patience_)));
      context.TryCancel();
      continue;
    }
    switch (static_cast<Event>(reinterpret_cast<intptr_t>(tag))) {
      case kFinished:
        events.Shutdown();
        while (events.Next(&tag, &ok)) {
        }  // a write may not have come back yet
        return status;
      case kWritten:
        writing_ = false;
        break;
      case kRead:
        if (ok && failure_.ok()) failure_ = Use(answer);
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
    if (!failure_.ok()) context.TryCancel();
  }
}

}  // namespace

absl::Status Client::ClassifyStream(const NextClassification& next, const UseClassification& use) {
  const ClientOptions& options = connection_->options;
  Flow flow(*this, *connection_->classification, options.classify_timeout, next, use);
  absl::Duration backoff = options.first_backoff;
  int64_t answered = 0;
  for (int made = 1;; ++made) {
    const absl::Status status = connection_->Try(
        absl::InfiniteFuture(), [&](grpc::ClientContext& context) { return flow.Run(context); });
    if (!flow.failure().ok()) return flow.failure();
    if (std::exchange(answered, flow.answered()) < answered) {  // it came on
      made = 1;
      backoff = options.first_backoff;
    }
    if (!absl::IsUnavailable(status) || made >= options.max_attempts) return status;
    if (!connection_->Wait(backoff, absl::InfiniteFuture())) {
      return absl::CancelledError("the call was stopped");
    }
    backoff = std::min(backoff * 2, options.max_backoff);
  }
}

}  // namespace tasuki
