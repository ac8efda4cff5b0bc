#include "server/metrics/series.h"

namespace tasuki {
namespace {

using prometheus::Registry;

CounterFamily& Counters(Registry& registry, const char* name, const char* help) {
  return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
}

GaugeFamily& Gauges(Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}

HistogramFamily& Histograms(Registry& registry, const char* name, const char* help) {
  return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
}

// One child for each value of a label that has a closed list.
template <size_t n>
std::array<prometheus::Counter*, n> Children(CounterFamily& family, const char* label,
                                             const std::array<const char*, n>& values) {
  std::array<prometheus::Counter*, n> children;
  for (size_t i = 0; i < n; ++i) children[i] = &family.Add({{label, values[i]}});
  return children;
}

std::array<std::array<prometheus::Counter*, 4>, 2> Rejections(Registry& registry) {
  CounterFamily& family =
      Counters(registry, "tasuki_admission_rejections_total",
               "Classifications that were refused or dropped without being executed.");
  std::array<std::array<prometheus::Counter*, 4>, 2> children;
  const std::array<const char*, 2> priorities = {"interactive", "bulk"};
  const std::array<const char*, 4> reasons = {"queue_full", "deadline", "draining", "cancelled"};
  for (size_t i = 0; i < priorities.size(); ++i) {
    for (size_t j = 0; j < reasons.size(); ++j) {
      children[i][j] = &family.Add({{"priority", priorities[i]}, {"reason", reasons[j]}});
    }
  }
  return children;
}

const Buckets kLoadBuckets = {.1, .5, 1, 2.5, 5, 10, 30, 60};
const Buckets kCheckpointBuckets = {.1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120};

}  // namespace

const Buckets kCallBuckets = {.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30};
const Buckets kStageBuckets = {.0001, .00025, .0005, .001, .0025, .005, .01,
                               .025,  .05,    .1,    .25,  .5,    1,    2.5};
const Buckets kStoreBuckets = {.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5};
const Buckets kInputBuckets = {1, 2, 4, 8, 16, 32, 64, 128};
const Buckets kTokenBuckets = {8, 16, 32, 64, 128, 256, 512};
const Buckets kJobBuckets = {1, 5, 15, 60, 300, 900, 3600, 14400, 43200, 86400};
const Buckets kStepBuckets = {.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30};
const Buckets kConfidenceBuckets = {.1, .2, .3, .4, .5, .6, .7, .8, .9, .95, .99};

Metrics::Series::Series(Registry& r)
    : started(Counters(r, "grpc_server_started_total", "Calls that arrived.")),
      handled(Counters(r, "grpc_server_handled_total", "Calls that ended, by status code.")),
      in_flight(Gauges(r, "grpc_server_in_flight_requests", "Calls being handled now.")),
      handling_seconds(Histograms(r, "grpc_server_handling_seconds",
                                  "Time from a call's arrival to its end in seconds.")),
      refusals(Children<3>(Counters(r, "tasuki_access_refusals_total",
                                    "Calls that were refused because of their token."),
                           "reason", {"token_missing", "token_invalid", "role_insufficient"})),
      access_reloads(Counters(r, "tasuki_access_reloads_total",
                              "Changed files of tokens and certificates, by whether they could be "
                              "taken.")),
      certificate_expiry(Gauges(r, "tasuki_tls_certificate_expiry_timestamp_seconds",
                                "When the server's certificate expires, since unix epoch.")),

      stage_seconds(Histograms(r, "tasuki_inference_stage_seconds",
                               "Time of the stages of a classification in seconds: tokenize and "
                               "queue once a request, encode, decode and postprocess once a batch "
                               "(on a GPU encode is both passes).")),
      texts(Counters(r, "tasuki_inference_texts_total",
                     "Texts that were to be classified, by how they ended.")),
      batch_size(Histograms(r, "tasuki_inference_batch_size", "Inputs of one forward pass.")),
      input_tokens(Histograms(r, "tasuki_inference_input_tokens",
                              "Tokens of an input as it goes into the model.")),
      tokens(Counters(r, "tasuki_inference_tokens_total", "Input tokens that were computed.")),
      padding_tokens(Counters(r, "tasuki_inference_padding_tokens_total",
                              "Input tokens that were computed and belong to no text; on a CPU "
                              "there are none.")),
      truncated_texts(Counters(r, "tasuki_inference_truncated_texts_total",
                               "Inputs whose end was cut off because they were too long.")),
      queue_length(Gauges(r, "tasuki_inference_queue_length", "Tokens that wait for their batch.")),
      queue_limit(
          Gauges(r, "tasuki_inference_queue_limit", "Tokens that may wait; more are rejected.")),
      predictions(Counters(r, "tasuki_inference_predictions_total",
                           "Answers by label; labels after the 31st of a task count as other.")),
      confidence(
          Histograms(r, "tasuki_inference_confidence_ratio", "Probability of the answered label.")),
      model_info(Gauges(r, "tasuki_model_info", "1 for each version in memory.")),
      model_memory(Gauges(r, "tasuki_model_memory_bytes", "Memory of a version's weights.")),
      shadow_predictions(
          Counters(r, "tasuki_shadow_predictions_total",
                   "Answers of a version in the shadow of another one, by whether "
                   "both chose the same label; skipped: it had no time, or failed.")),

      model_loads(Children<2>(
          Counters(r, "tasuki_model_loads_total", "Loads of model versions, by how they ended."),
          "result", {"error", "ok"})),
      model_load_seconds(
          Histograms(r, "tasuki_model_load_seconds", "Time to load a model version in seconds.")
              .Add({}, kLoadBuckets)),
      model_evictions(Counters(r, "tasuki_model_evictions_total",
                               "Versions that made room in memory for others.")
                          .Add({})),
      alias_changes(
          Counters(r, "tasuki_alias_changes_total", "Times that an alias was pointed to a version.")
              .Add({})),
      rejections(Rejections(r)),
      expired_executions(Counters(r, "tasuki_inference_expired_executions_total",
                                  "Classifications that were executed though their deadline had "
                                  "passed; there should be none.")
                             .Add({})),

      loss(Gauges(r, "tasuki_train_loss", "Training loss of a running job, per target token.")),
      learning_rate(Gauges(r, "tasuki_train_learning_rate", "Learning rate of a running job.")),
      gradient_norm(Gauges(r, "tasuki_train_gradient_norm",
                           "Norm of a running job's gradient before clipping.")),
      phase(Gauges(r, "tasuki_train_phase",
                   "1 for what a running job does now, 0 for what else it might.")),
      progress(Gauges(r, "tasuki_train_progress_ratio",
                      "Share of a running job's steps that are done.")),
      last_step_time(Gauges(r, "tasuki_train_last_step_timestamp_seconds",
                            "When a running job last reported a new step, since unix epoch.")),
      score(Gauges(r, "tasuki_eval_score",
                   "Newest figures of a running job on the valid sets of its tasks.")),
      last_checkpoint_time(Gauges(r, "tasuki_checkpoint_last_success_timestamp_seconds",
                                  "When a running job last completed a checkpoint, since unix "
                                  "epoch.")),

      train_steps(Counters(r, "tasuki_train_steps_total", "Optimizer steps.").Add({})),
      train_examples(Counters(r, "tasuki_train_examples_total", "Examples trained on.").Add({})),
      train_tokens(Counters(r, "tasuki_train_tokens_total", "Input tokens trained on.").Add({})),
      non_finite_losses(Counters(r, "tasuki_train_non_finite_losses_total",
                                 "Jobs that ended because a loss or gradient was not finite.")
                            .Add({})),
      step_seconds(Histograms(r, "tasuki_train_step_seconds",
                              "Time of optimizer steps in seconds, each as the mean of a report.")
                       .Add({}, kStepBuckets)),
      checkpoints(Children<2>(
          Counters(r, "tasuki_checkpoints_total", "Checkpoints, by whether they were completed."),
          "result", {"error", "ok"})),
      checkpoint_seconds(
          Histograms(r, "tasuki_checkpoint_write_seconds", "Time to write a checkpoint in seconds.")
              .Add({}, kCheckpointBuckets)),
      checkpoint_fallbacks(Counters(r, "tasuki_checkpoint_fallbacks_total",
                                    "Damaged checkpoints that were passed over for the one before.")
                               .Add({})),
      attempts(Children<5>(
          Counters(r, "tasuki_job_attempts_total", "Trainers started, by why they were needed."),
          "cause", {"first", "resumed", "server_restart", "crash", "oom"})),
      trainer_exits(Children<6>(
          Counters(r, "tasuki_child_exits_total", "Trainers that ended, by how they ended."),
          "class", {"finished", "stopped", "failed", "crashed", "oom", "killed"})),

      jobs(Gauges(r, "tasuki_jobs", "Jobs in the store, by state.")),
      jobs_created(Counters(r, "tasuki_jobs_created_total", "Jobs created.").Add({})),
      jobs_finished(
          Counters(r, "tasuki_jobs_finished_total", "Jobs that ended, by state and reason.")),
      queue_wait(Histograms(r, "tasuki_job_queue_wait_seconds",
                            "Time a job waited before its first trainer started in seconds.")
                     .Add({}, kJobBuckets)),
      job_duration(Histograms(r, "tasuki_job_duration_seconds",
                              "Time from the start of a job's first trainer to its end in "
                              "seconds.")),
      oldest_queued(Gauges(r, "tasuki_job_oldest_queued_timestamp_seconds",
                           "When the job that waits longest was queued, since unix epoch; absent "
                           "while none waits.")),

      store_seconds(
          Histograms(r, "tasuki_store_operation_seconds", "Time of store operations in seconds.")),
      store_errors(Counters(r, "tasuki_store_errors_total",
                            "Store operations that failed because the store did not work.")),
      store_retries(Counters(r, "tasuki_store_retries_total",
                             "Store operations that are tried again by a job that runs.")),

      build_info(Gauges(r, "tasuki_build_info", "1, with the versions that run.")),
      compute_threads(Gauges(r, "tasuki_compute_threads",
                             "Threads of a matrix product, with precision and kernels.")),
      draining(Gauges(r, "tasuki_draining", "1 while the server shuts down.").Add({})),
      health(Gauges(r, "tasuki_health_serving",
                    "1 where the health service answers SERVING, by service; tasukid is the whole "
                    "server.")),
      log_messages(
          Children<4>(Counters(r, "tasuki_log_messages_total", "Lines of the log, by level."),
                      "level", {"debug", "info", "warning", "error"})) {
  GaugeFamily& connections =
      Gauges(r, "tasuki_store_connections", "Connections to the store, by whether they are used.");
  store_connections = {&connections.Add({{"state", "in_use"}}),
                       &connections.Add({{"state", "idle"}})};
  for (const char* file : {"tokens", "certificates"}) {
    for (const char* result : {"ok", "error"}) {
      access_reloads.Add({{"file", file}, {"result", result}});
    }
  }
  for (const char* state :
       {"QUEUED", "RUNNING", "PAUSED", "CANCELLING", "SUCCEEDED", "FAILED", "CANCELLED"}) {
    jobs.Add({{"state", state}});
  }
  for (const char* state : {"SUCCEEDED", "FAILED", "CANCELLED"}) {
    job_duration.Add({{"state", state}}, kJobBuckets);
  }
  jobs_finished.Add({{"state", "SUCCEEDED"}, {"reason", "NONE"}});
  jobs_finished.Add({{"state", "CANCELLED"}, {"reason", "NONE"}});
  for (const char* reason : kFailureReasons) {
    jobs_finished.Add({{"state", "FAILED"}, {"reason", reason}});
  }
  for (const char* operation : kStoreOperations) {
    store_seconds.Add({{"op", operation}}, kStoreBuckets);
    store_errors.Add({{"op", operation}});
    store_retries.Add({{"op", operation}});
  }
}

}  // namespace tasuki
