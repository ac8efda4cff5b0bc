#include "server/rpc/observer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "google/protobuf/descriptor.h"
#include "grpcpp/server_context.h"
#include "inference/inference.pb.h"
#include "server/rpc/trace_context.h"
#include "spdlog/spdlog.h"
#include "tasuki/v1/classification.pb.h"
#include "tasuki/v1/datasets.pb.h"
#include "tasuki/v1/models.pb.h"
#include "tasuki/v1/server.pb.h"
#include "tasuki/v1/training.pb.h"

namespace tasuki {
namespace {

using grpc::experimental::InterceptionHookPoints;

constexpr size_t kMaxLoggedBytes = 500;
// Lines a second about calls that failed through no fault of ours: a full queue refuses thousands.
constexpr int kMaxLinesASecond = 10;

// Faults of ours are errors in the log, those of callers are worth a line for who looks for them.
spdlog::level::level_enum LevelOf(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::UNKNOWN:
    case grpc::StatusCode::DATA_LOSS:
      return spdlog::level::err;
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::RESOURCE_EXHAUSTED:
      return spdlog::level::warn;
    default:
      return spdlog::level::info;
  }
}

// One call, from its arrival to its end.
class ObservedCall : public grpc::experimental::Interceptor {
 public:
  ObservedCall(grpc::experimental::ServerRpcInfo* info, MethodMetrics& metrics,
               CallsUnderWay& calls, LineLimit& limit)
      : info_(info), metrics_(metrics), calls_(calls), limit_(limit), start_(absl::Now()) {
    calls_.Begin();
    metrics_.started.Increment();
    metrics_.in_flight.Increment();
  }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      End(methods->GetSendStatus());
    }
    methods->Proceed();
  }

  // A call whose client went away may never send a status.
  ~ObservedCall() override {
    if (!ended_) End(grpc::Status(grpc::StatusCode::CANCELLED, "the client went away"));
    calls_.End();
  }

 private:
  void End(const grpc::Status& status) {
    ended_ = true;
    const double seconds = absl::ToDoubleSeconds(absl::Now() - start_);
    metrics_.in_flight.Decrement();
    metrics_.handling_seconds.Observe(seconds);
    metrics_.handled[std::clamp<int>(status.error_code(), 0, 16)]->Increment();
    if (status.ok()) {
      if (!spdlog::should_log(spdlog::level::debug)) return;
      return spdlog::debug("{} from {} took {:.3f} s{}", info_->method(),
                           info_->server_context()->peer(), seconds, Trace());
    }
    const spdlog::level::level_enum level = LevelOf(status.error_code());
    std::optional<int64_t> left_out = 0;
    if (level != spdlog::level::err && !(left_out = limit_.Take()).has_value()) return;
    spdlog::log(level, "{} from {} failed after {:.3f} s with code {}{}: {}{}", info_->method(),
                info_->server_context()->peer(), seconds, static_cast<int>(status.error_code()),
                Trace(), absl::Utf8SafeCEscape(status.error_message().substr(0, kMaxLoggedBytes)),
                *left_out > 0 ? absl::StrCat(" (and ", *left_out, " more calls failed)") : "");
  }

  // " [trace …]", so that lines of this call are found by those of its caller; empty if there is
  // none.
  std::string Trace() const {
    const auto& metadata = info_->server_context()->client_metadata();
    const auto header = metadata.find("traceparent");
    if (header == metadata.end()) return "";
    const std::string id =
        TraceIdOf(absl::string_view(header->second.data(), header->second.size()));
    return id.empty() ? "" : absl::StrCat(" [trace ", id, "]");
  }

  grpc::experimental::ServerRpcInfo* const info_;
  MethodMetrics& metrics_;
  CallsUnderWay& calls_;
  LineLimit& limit_;
  const absl::Time start_;
  bool ended_ = false;
};

const char* TypeOf(const google::protobuf::MethodDescriptor& method) {
  if (method.client_streaming()) {
    return method.server_streaming() ? "bidi_stream" : "client_stream";
  }
  return method.server_streaming() ? "server_stream" : "unary";
}

}  // namespace

void CallsUnderWay::Begin() {
  absl::MutexLock lock(&mutex_);
  ++count_;
}

void CallsUnderWay::End() {
  absl::MutexLock lock(&mutex_);
  --count_;
}

void CallsUnderWay::AwaitNone(absl::Time deadline) {
  const auto none = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return count_ == 0; };
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithDeadline(absl::Condition(&none), deadline);
}

std::optional<int64_t> LineLimit::Take() {
  absl::MutexLock lock(&mutex_);
  if (const absl::Time now = absl::Now(); now - second_ >= absl::Seconds(1)) {
    second_ = now;
    lines_ = 0;
  }
  if (lines_ == kMaxLinesASecond) {
    ++left_out_;
    return std::nullopt;
  }
  ++lines_;
  return std::exchange(left_out_, 0);
}

CallObserver::CallObserver(Metrics& metrics, CallsUnderWay& calls) : calls_(calls) {
  const google::protobuf::FileDescriptor* const files[] = {
      v1::ClassifyRequest::descriptor()->file(),
      v1::Dataset::descriptor()->file(),
      v1::Model::descriptor()->file(),
      v1::ServerInfo::descriptor()->file(),
      v1::TrainingJob::descriptor()->file(),
      inference::ModelInferRequest::descriptor()->file()};
  for (const auto* file : files) {
    for (int i = 0; i < file->service_count(); ++i) {
      const auto& service = *file->service(i);
      for (int j = 0; j < service.method_count(); ++j) {
        const auto& method = *service.method(j);
        methods_.emplace(absl::StrCat("/", service.full_name(), "/", method.name()),
                         metrics.Method(TypeOf(method), service.full_name(), method.name()));
      }
    }
  }
}

grpc::experimental::Interceptor* CallObserver::CreateServerInterceptor(
    grpc::experimental::ServerRpcInfo* info) {
  const auto method = methods_.find(info->method());
  if (method == methods_.end()) return nullptr;  // health and reflection
  return new ObservedCall(info, method->second, calls_, failures_of_callers_);
}

}  // namespace tasuki
