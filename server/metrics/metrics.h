// Every Prometheus series of the server, with name, help text and unit. The only place that names
// one.
//
// One Metrics lives as long as the server; rooms get a reference. Children are made once and
// referred to afterwards; nothing is looked up on the path of a request. Counters count an event at
// its end. Durations are in seconds, sizes in bytes. Everything here is thread-safe and never
// blocks for long; no method can fail unless it says so.
//
//   serving  ForModel() for each loaded version; CountModelLoad, CountRejection,
//            CountExpiredExecutions
//   rpc      Method() for each method at start; CountRefusal, CountAccessReload,
//            SetCertificateExpiry
//   jobs     ForJob() for each running trainer; CountAttempt, CountTrainerExit, CountNonFiniteLoss,
//            CountCheckpointError, CountCheckpointFallback, CountStoreRetry
//   store    its own operations, and the job counts: it sees every change of a job's state
//   server   Listen, SetBuildInfo, SetCompute, WatchVolume, WatchFiles, SetDraining, SetHealth,
//            CountLogMessage
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace tasuki {

class Metrics;

// Which requests to classify go first when some wait.
enum class Priority { kInteractive, kBulk };

// Series of one gRPC method, made by Metrics::Method and valid as long as Metrics.
struct MethodMetrics {
  prometheus::Counter& started;
  prometheus::Gauge& in_flight;
  prometheus::Histogram& handling_seconds;
  // A call ended with a canonical code, 0 (OK) to 16 (UNAUTHENTICATED).
  void CountHandled(int code) const;

 private:
  friend class Metrics;
  MethodMetrics(prometheus::Counter& started, prometheus::Gauge& in_flight,
                prometheus::Histogram& handling_seconds)
      : started(started), in_flight(in_flight), handling_seconds(handling_seconds) {}
  // By code; null for those that hardly ever come, whose series are made when they do.
  std::array<prometheus::Counter*, 17> handled_ = {};
  prometheus::Family<prometheus::Counter>* family_ = nullptr;
  prometheus::Labels labels_;
};

// What ModelMetrics needs to know of a version.
struct ServedModel {
  struct Task {
    std::string name;
    std::vector<std::string> labels;
  };
  std::string name;  // `models/{model}/versions/{version}`: the label `model`
  std::string precision = "fp32";
  std::string device = "cpu";
  int64_t memory_bytes = 0;        // of its weights
  int64_t queue_limit_tokens = 0;  // of its queue
  std::vector<Task> tasks;         // in the manifest's order
};

// Series of one loaded model version, removed with the last object for that version. Made by
// Metrics::ForModel, must not outlive Metrics.
class ModelMetrics {
 public:
  // Parts of the time between a request's arrival and its answer.
  enum class Stage { kTokenize, kQueue, kEncode, kDecode, kPostprocess };
  // How a text ended: answered; answered after its deadline, when nobody listened any more; refused
  // because the queue was full or the server drains; dropped because its deadline had passed or
  // could not be met; dropped because the caller had gone; failed.
  enum class Result { kOk, kLate, kRejected, kExpired, kCancelled, kError };
  // What was counted since the version was loaded.
  struct Totals {
    struct Timed {
      int64_t count = 0;
      absl::Duration time;
    };
    Timed ok, failed;  // requests, from their arrival to their end; not kOk is failed
    Timed tokenize, queue;
    Timed forward;        // encode and decode
    int64_t texts = 0;    // of the requests that are ok
    absl::Time last_end;  // of a request; 1970 if there was none
  };

  ~ModelMetrics();
  ModelMetrics(const ModelMetrics&) = delete;
  ModelMetrics& operator=(const ModelMetrics&) = delete;

  // kTokenize and kQueue once a request; once a forward pass kEncode, kDecode, and kPostprocess,
  // from its end until its answers are sent.
  void ObserveStage(Stage stage, absl::Duration duration);
  // A request of so many texts has ended, this long after it arrived.
  void CountRequest(Result result, int64_t texts, absl::Duration duration);
  // One prepared input; `tokens` as they go into the model.
  void ObserveInput(int64_t tokens, bool truncated);
  // One forward pass over `inputs` inputs of `tokens` tokens together, and so many that are
  // padding.
  void ObserveBatch(int64_t inputs, int64_t tokens, int64_t padding_tokens);
  // Tokens that wait now.
  void SetQueue(int64_t tokens);
  // Answers of this version as a shadow: as the version that was asked, otherwise, or none.
  void CountShadow(int64_t same, int64_t different, int64_t skipped);
  // One answer; indices into ServedModel::tasks and its labels; probability of the answered label.
  void CountPrediction(int task, int label, double probability);
  Totals Read() const;

 private:
  friend class Metrics;
  struct Series;
  explicit ModelMetrics(std::unique_ptr<Series> series);
  std::unique_ptr<Series> series_;
};

// Gauges of one running job, removed with the last object for that job, and the counters of all
// training that it feeds. Made by Metrics::ForJob for each attempt, must not outlive Metrics.
class JobMetrics {
 public:
  // A progress report of the trainer: the fields of tasuki.v1.Progress.
  struct Report {
    std::string phase;  // the name of one of tasuki.v1.Progress.Phase
    int64_t step = 0;
    int64_t total_steps = 0;
    int64_t batch_size = 0;  // examples a step
    double loss = 0;
    double learning_rate = 0;
    double gradient_norm = 0;
    double examples_per_second = 0;
    double tokens_per_second = 0;
  };

  ~JobMetrics();
  JobMetrics(const JobMetrics&) = delete;
  JobMetrics& operator=(const JobMetrics&) = delete;

  // Sets the gauges; steps since the report before are added to the counters of steps, examples and
  // tokens, and to the histogram of step times, each with the mean of them.
  void Observe(const Report& report);
  // A figure of an evaluation on a valid set: task "sentiment", figure "macro_f1".
  void SetScore(absl::string_view task, absl::string_view figure, double value);
  // A checkpoint was completed, which took so long.
  void CountCheckpoint(absl::Duration duration);

 private:
  friend class Metrics;
  struct Series;
  explicit JobMetrics(std::unique_ptr<Series> series);
  std::unique_ptr<Series> series_;
};

class Metrics {
 public:
  // Why a trainer was started.
  enum class AttemptCause { kFirst, kResumed, kServerRestart, kCrash, kOutOfMemory };
  // How a trainer ended: did its work; stopped as told; reported a failure; died or ended without a
  // word; for lack of memory; was killed by the server.
  enum class TrainerExit { kFinished, kStopped, kFailed, kCrashed, kOutOfMemory, kKilled };
  // Why a request to classify was not executed: the queue was full, or too long for its deadline;
  // the deadline had passed, or could not be met; the server stops; the caller had gone.
  enum class Rejection { kQueueFull, kDeadline, kDraining, kCancelled };
  // Why a call was refused before it was looked at: without a token, with one that is not known,
  // with one whose role is not for it.
  enum class Refusal { kTokenMissing, kTokenInvalid, kRoleInsufficient };
  enum class LogLevel { kDebug, kInfo, kWarning, kError };
  // What says who may call, and is read again when it changes.
  enum class AccessFile { kTokens, kCertificates };

  Metrics();
  // Stops listening. May take two seconds where a scraper stays connected.
  ~Metrics();

  // Serves /metrics at `address` ("127.0.0.1:9500", port 0 picks one). Answers the address in use.
  // UNAVAILABLE if it cannot be bound, INVALID_ARGUMENT if it is not HOST:PORT. REQUIRES: not
  // called before, or it failed.
  absl::StatusOr<std::string> Listen(const std::string& address);
  // What /metrics answers, in the text exposition format.
  std::string Text() const;

  // Server.
  void SetBuildInfo(const std::string& version, const std::string& libtorch_version);
  void SetDraining(bool draining);
  // `use` is "serving" or "training".
  void SetCompute(const std::string& use, const std::string& precision, const std::string& kernels,
                  int threads);
  // Reports size and free space of the volume that holds `path`, read at each scrape.
  void WatchVolume(const std::string& volume, const std::string& path);
  // Reports the bytes of the files in and below `path`, looked at by a scrape once a minute.
  void WatchFiles(const std::string& kind, const std::string& path);
  // What the health service answers; "" is the whole server.
  void SetHealth(const std::string& service, bool serving);
  void CountLogMessage(LogLevel level);

  // RPC. `type` is "unary", "client_stream", "server_stream" or "bidi_stream"; `service` is the
  // full name ("tasuki.v1.TrainingService"). The same names give the same series.
  MethodMetrics Method(const std::string& type, const std::string& service,
                       const std::string& method);
  // How a canonical code, 0 to 16, is spelled in labels: "InvalidArgument".
  static const char* CodeName(int code);
  void CountRefusal(Refusal refusal);
  // `ok` is false if what was read cannot be taken.
  void CountAccessReload(AccessFile file, bool ok);
  void SetCertificateExpiry(absl::Time expiry);

  // Serving.
  std::unique_ptr<ModelMetrics> ForModel(const ServedModel& model);
  void CountModelLoad(bool ok, absl::Duration duration);
  void CountModelEviction();
  void CountAliasChange();
  void CountRejection(Rejection rejection, Priority priority);
  // Requests whose deadline had passed when a forward pass with them began: there should be none.
  void CountExpiredExecutions(int64_t requests);

  // Jobs. `job` is `trainingJobs/{id}`; steps are where its progress stood before this
  // attempt.
  std::unique_ptr<JobMetrics> ForJob(const std::string& job, int64_t steps_done = 0,
                                     int64_t total_steps = 0);
  void CountAttempt(AttemptCause cause);
  void CountTrainerExit(TrainerExit exit);
  void CountNonFiniteLoss();
  // A checkpoint could not be written; a damaged one was passed over.
  void CountCheckpointError();
  void CountCheckpointFallback();

  // Store. `operation` is one of those in series.h; `ok` is false if the store did not work (not
  // if, say, a row was not there).
  void ObserveStoreOperation(const char* operation, absl::Duration duration, bool ok);
  // An operation that did not work is tried again.
  void CountStoreRetry(const char* operation);
  // So many are there more, idle; so many more are in use.
  void AddStoreConnections(int64_t count);
  void UseStoreConnections(int64_t difference);
  // Job counts, fed by the store. States and reasons are spelled as in the proto; an unknown reason
  // counts as "OTHER", an empty one as "NONE".
  void SetJobCount(absl::string_view state, int64_t count);
  void ChangeJobCount(absl::string_view state, int64_t difference);
  void CountJobCreated();
  // A job waits in the queue since then; nullopt: it does not any more.
  void SetQueued(const std::string& job, std::optional<absl::Time> since);
  void ObserveJobQueueWait(absl::Duration wait);
  void CountJobFinished(absl::string_view state, absl::string_view reason, absl::Duration duration);

 private:
  friend class ModelMetrics;
  friend class JobMetrics;
  struct Series;
  struct Endpoint;
  std::shared_ptr<prometheus::Registry> registry_;
  std::unique_ptr<Series> series_;
  std::unique_ptr<Endpoint> endpoint_;
};

}  // namespace tasuki
