#include "server/rpc/observer.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "google/protobuf/descriptor.h"
#include "grpcpp/server_context.h"
#include "inference/inference.pb.h"
#include "server/log/log.h"
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
    metrics_.CountHandled(status.error_code());
    const bool ok = status.ok();
    const spdlog::level::level_enum level =
        ok ? spdlog::level::debug : LevelOf(status.error_code());
    if (!spdlog::should_log(level)) return;
    std::optional<int64_t> left_out = 0;
    if (!ok && level != spdlog::level::err && !(left_out = limit_.Take()).has_value()) return;
    const LogFields fields({{"method", info_->method()},
                            {"peer", info_->server_context()->peer()},
                            {"code", Metrics::CodeName(status.error_code())},
                            {"seconds", absl::StrFormat("%.3f", seconds)},
                            {"trace_id", TraceIdOf(Header("traceparent"))},
                            {"request_id", RequestIdOf(Header("x-request-id"))}});
    if (ok) return spdlog::debug("call answered");
    spdlog::log(level, "call failed: {}{}", status.error_message().substr(0, kMaxLoggedBytes),
                *left_out > 0 ? absl::StrCat(" (and ", *left_out, " more calls failed)") : "");
  }

  // What the caller sent along; "" if it did not.
  absl::string_view Header(const char* name) const {
    const auto& metadata = info_->server_context()->client_metadata();
    const auto header = metadata.find(name);
    if (header == metadata.end()) return "";
    return {header->second.data(), header->second.size()};
  }

  grpc::experimental::ServerRpcInfo* const info_;
  MethodMetrics& metrics_;
  CallsUnderWay& calls_;
  LineLimit& limit_;
  const absl::Time start_;
  bool ended_ = false;
};

// Of the Open Inference Protocol: nobody is to pay for series of what is always UNIMPLEMENTED.
bool IsNotOffered(absl::string_view method) {
  return absl::StrContains(method, "SharedMemory") || method == "TraceSetting" ||
         method == "LogSettings";
}

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
        if (IsNotOffered(method.name())) continue;
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
