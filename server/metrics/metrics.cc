#include "server/metrics/metrics.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <optional>
#include <thread>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "prometheus/exposer.h"
#include "prometheus/text_serializer.h"
#include "server/metrics/series.h"

namespace tasuki {

namespace {

// By canonical code.
constexpr std::array kCodes = {
    "OK",       "Canceled",       "Unknown",          "InvalidArgument",   "DeadlineExceeded",
    "NotFound", "AlreadyExists",  "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
    "Aborted",  "OutOfRange",     "Unimplemented",    "Internal",          "Unavailable",
    "DataLoss", "Unauthenticated"};

constexpr std::array<absl::string_view, 5> kRareCodes = {"Unknown", "AlreadyExists", "Aborted",
                                                         "OutOfRange", "DataLoss"};

// Connects and hangs up. Whether it works does not matter.
void Knock(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), absl::StrCat(port).c_str(), &hints, &found) != 0) return;
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd >= 0) {
    (void)connect(fd, found->ai_addr, found->ai_addrlen);
    close(fd);
  }
  freeaddrinfo(found);
}

}  // namespace

// The web server looks whether it is to stop when somebody connects, and else every two seconds: so
// somebody does.
struct Metrics::Endpoint {
  // Threads enough that some connections on which nothing comes do not keep Prometheus out.
  explicit Endpoint(const std::string& address)
      : exposer(std::in_place, std::vector<std::string>{"listening_ports", address, "num_threads",
                                                        "16", "request_timeout_ms", "5000"}) {}
  ~Endpoint() {
    absl::Notification stopped;
    std::thread knocking([&] {
      while (!stopped.WaitForNotificationWithTimeout(absl::Milliseconds(10))) Knock(host, port);
    });
    exposer.reset();
    stopped.Notify();
    knocking.join();
  }

  std::optional<prometheus::Exposer> exposer;
  std::string host;
  int port = 0;  // 0 until it listens
};

Metrics::Metrics()
    : registry_(std::make_shared<prometheus::Registry>()),
      series_(std::make_unique<Series>(*registry_)) {}

Metrics::~Metrics() = default;

absl::StatusOr<std::string> Metrics::Listen(const std::string& address) {
  const size_t colon = address.rfind(':');
  int port = -1;
  // Checked here because the web server would take more: lists, ports only, ports with TLS.
  if (colon == 0 || colon == std::string::npos ||
      address.find_first_of(", +") != std::string::npos ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 0 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("metrics address \"", address, "\" is not HOST:PORT, such as 127.0.0.1:9500"));
  }
  try {
    auto endpoint = std::make_unique<Endpoint>(address);
    endpoint->exposer->RegisterCollectable(registry_);
    endpoint->exposer->RegisterCollectable(series_->machine);
    endpoint->exposer->RegisterCollectable(series_->devices);
    endpoint->host = address.substr(0, colon);
    endpoint->port = endpoint->exposer->GetListeningPorts().at(0);
    endpoint_ = std::move(endpoint);
    return absl::StrCat(endpoint_->host, ":", endpoint_->port);
  } catch (const std::exception&) {  // its text does not say which address, nor why
    return absl::UnavailableError(
        absl::StrCat("metrics cannot listen at ", address,
                     ": the address is in use or not one of this machine; choose another with "
                     "--metrics_listen"));
  }
}

std::string Metrics::Text() const {
  std::vector<prometheus::MetricFamily> families = registry_->Collect();
  for (auto& family : series_->machine->Collect()) families.push_back(std::move(family));
  for (auto& family : series_->devices->Collect()) families.push_back(std::move(family));
  return prometheus::TextSerializer().Serialize(families);
}

void Metrics::SetBuildInfo(const std::string& version, const std::string& libtorch_version) {
  series_->build_info.Add({{"version", version}, {"libtorch_version", libtorch_version}}).Set(1);
}

void Metrics::SetCompute(const std::string& use, const std::string& precision,
                         const std::string& kernels, int threads) {
  series_->compute_threads.Add({{"use", use}, {"precision", precision}, {"kernels", kernels}})
      .Set(threads);
}

void Metrics::SetDraining(bool draining) { series_->draining.Set(draining ? 1 : 0); }

void Metrics::WatchVolume(const std::string& volume, const std::string& path) {
  series_->machine->AddVolume(volume, path);
}

void Metrics::WatchFiles(const std::string& kind, const std::string& path) {
  series_->machine->AddFiles(kind, path);
}

void Metrics::SetHealth(const std::string& service, bool serving) {
  series_->health.Add({{"service", service.empty() ? "tasukid" : service}}).Set(serving ? 1 : 0);
}

void Metrics::CountLogMessage(LogLevel level) {
  series_->log_messages[static_cast<size_t>(level)]->Increment();
}

const char* Metrics::CodeName(int code) { return kCodes[std::clamp<int>(code, 0, 16)]; }

void MethodMetrics::CountHandled(int code) const {
  code = std::clamp<int>(code, 0, 16);
  if (handled_[code] != nullptr) return handled_[code]->Increment();
  prometheus::Labels labels = labels_;
  labels["grpc_code"] = kCodes[code];
  family_->Add(labels).Increment();
}

MethodMetrics Metrics::Method(const std::string& type, const std::string& service,
                              const std::string& method) {
  const prometheus::Labels names = {{"grpc_service", service}, {"grpc_method", method}};
  prometheus::Labels labels = names;
  labels["grpc_type"] = type;
  MethodMetrics metrics(series_->started.Add(labels), series_->in_flight.Add(names),
                        series_->handling_seconds.Add(names, kCallBuckets));
  metrics.family_ = &series_->handled;
  metrics.labels_ = labels;
  // Alerts look at every code of the calls that classify.
  const bool classifies = method == "Classify" || method == "ModelInfer";
  for (size_t code = 0; code < kCodes.size(); ++code) {
    if (!classifies &&
        std::find(kRareCodes.begin(), kRareCodes.end(), kCodes[code]) != kRareCodes.end()) {
      continue;
    }
    labels["grpc_code"] = kCodes[code];
    metrics.handled_[code] = &series_->handled.Add(labels);
  }
  return metrics;
}

void Metrics::CountRefusal(Refusal refusal) {
  series_->refusals[static_cast<size_t>(refusal)]->Increment();
}

void Metrics::CountAccessReload(AccessFile file, bool ok) {
  series_->access_reloads
      .Add({{"file", file == AccessFile::kTokens ? "tokens" : "certificates"},
            {"result", ok ? "ok" : "error"}})
      .Increment();
}

void Metrics::SetCertificateExpiry(absl::Time expiry) {
  series_->certificate_expiry.Add({}).Set(absl::ToDoubleSeconds(expiry - absl::UnixEpoch()));
}

void Metrics::CountModelLoad(bool ok, absl::Duration duration) {
  series_->model_loads[ok ? 1 : 0]->Increment();
  series_->model_load_seconds.Observe(absl::ToDoubleSeconds(duration));
}

void Metrics::CountModelEviction() { series_->model_evictions.Increment(); }

void Metrics::CountAliasChange() { series_->alias_changes.Increment(); }

void Metrics::CountRejection(Rejection rejection, Priority priority) {
  series_->rejections[static_cast<size_t>(priority)][static_cast<size_t>(rejection)]->Increment();
}

void Metrics::CountExpiredExecutions(int64_t requests) {
  series_->expired_executions.Increment(static_cast<double>(requests));
}

void Metrics::CountAttempt(AttemptCause cause) {
  series_->attempts[static_cast<size_t>(cause)]->Increment();
}

void Metrics::CountTrainerExit(TrainerExit exit) {
  series_->trainer_exits[static_cast<size_t>(exit)]->Increment();
}

void Metrics::CountNonFiniteLoss() { series_->non_finite_losses.Increment(); }

void Metrics::CountCheckpointError() { series_->checkpoints[0]->Increment(); }

void Metrics::CountCheckpointFallback() { series_->checkpoint_fallbacks.Increment(); }

// Adding a child that is there answers it: a lookup, which is nothing beside a transaction.
void Metrics::ObserveStoreOperation(const char* operation, absl::Duration duration, bool ok) {
  series_->store_seconds.Add({{"op", operation}}, kStoreBuckets)
      .Observe(absl::ToDoubleSeconds(duration));
  if (!ok) series_->store_errors.Add({{"op", operation}}).Increment();
}

void Metrics::CountStoreRetry(const char* operation) {
  series_->store_retries.Add({{"op", operation}}).Increment();
}

void Metrics::AddStoreConnections(int64_t count) {
  series_->store_connections[1]->Increment(static_cast<double>(count));
}

void Metrics::UseStoreConnections(int64_t difference) {
  series_->store_connections[0]->Increment(static_cast<double>(difference));
  series_->store_connections[1]->Decrement(static_cast<double>(difference));
}

void Metrics::SetQueued(const std::string& job, std::optional<absl::Time> since) {
  absl::MutexLock lock(&series_->mutex);
  auto& all = series_->queued_since;
  if (since.has_value()) {
    all[job] = *since;
  } else {
    all.erase(job);
  }
  const auto oldest = std::min_element(
      all.begin(), all.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  GaugeFamily& family = series_->oldest_queued;
  if (oldest != all.end()) {
    const double time = absl::ToDoubleSeconds(oldest->second - absl::UnixEpoch());
    family.Add({}, time).Set(time);  // never 0 between the two: a scrape may come at any time
  } else if (family.Has({})) {
    family.Remove(&family.Add({}));
  }
}

void Metrics::SetJobCount(absl::string_view state, int64_t count) {
  series_->jobs.Add({{"state", std::string(state)}}).Set(static_cast<double>(count));
}

void Metrics::ChangeJobCount(absl::string_view state, int64_t difference) {
  series_->jobs.Add({{"state", std::string(state)}}).Increment(static_cast<double>(difference));
}

void Metrics::CountJobCreated() { series_->jobs_created.Increment(); }

void Metrics::ObserveJobQueueWait(absl::Duration wait) {
  series_->queue_wait.Observe(absl::ToDoubleSeconds(wait));
}

void Metrics::CountJobFinished(absl::string_view state, absl::string_view reason,
                               absl::Duration duration) {
  const auto known = std::find(kFailureReasons.begin(), kFailureReasons.end(), reason);
  const std::string label = reason.empty()                   ? "NONE"
                            : known == kFailureReasons.end() ? "OTHER"
                                                             : *known;
  series_->jobs_finished.Add({{"state", std::string(state)}, {"reason", label}}).Increment();
  series_->job_duration.Add({{"state", std::string(state)}}, kJobBuckets)
      .Observe(absl::ToDoubleSeconds(duration));
}

}  // namespace tasuki
