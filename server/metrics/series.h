// The families behind Metrics and the children that are always there. Private to server/metrics.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "prometheus/family.h"
#include "server/metrics/device_collector.h"
#include "server/metrics/machine_collector.h"
#include "server/metrics/metrics.h"

namespace tasuki {

using CounterFamily = prometheus::Family<prometheus::Counter>;
using GaugeFamily = prometheus::Family<prometheus::Gauge>;
using HistogramFamily = prometheus::Family<prometheus::Histogram>;
using Buckets = prometheus::Histogram::BucketBoundaries;

extern const Buckets kCallBuckets;        // of a gRPC call, seconds
extern const Buckets kStageBuckets;       // of a part of a classification, seconds
extern const Buckets kStoreBuckets;       // of a store operation, seconds
extern const Buckets kInputBuckets;       // inputs of a batch
extern const Buckets kTokenBuckets;       // tokens of an input
extern const Buckets kJobBuckets;         // of a job's life, seconds
extern const Buckets kStepBuckets;        // of an optimizer step, seconds
extern const Buckets kConfidenceBuckets;  // probability of an answer

// Reasons of failed jobs that have a series of their own.
inline constexpr std::array kFailureReasons = {
    "CRASH_LOOP",        "OUT_OF_MEMORY",  "NON_FINITE_LOSS", "FILE_CHANGED",
    "DISK_FULL",         "LABEL_UNKNOWN",  "LIMIT_EXCEEDED",  "MODEL_INVALID",
    "LABEL_INDISTINCT",  "INTERNAL_ERROR", "FIELD_INVALID",   "DATASET_EMPTY",
    "STORE_UNAVAILABLE", "OTHER"};
// What the store does.
inline constexpr std::array kStoreOperations = {"read_datasets", "write_datasets", "read_jobs",
                                                "write_jobs",    "claim_job",      "read_events",
                                                "read_models",   "write_models"};

struct Metrics::Series {
  explicit Series(prometheus::Registry& registry);

  // gRPC.
  CounterFamily& started;
  CounterFamily& handled;
  GaugeFamily& in_flight;
  HistogramFamily& handling_seconds;
  std::array<prometheus::Counter*, 3> refusals;
  CounterFamily& access_reloads;
  GaugeFamily& certificate_expiry;  // without a child where there is no TLS
  // Serving, by version.
  HistogramFamily& stage_seconds;
  CounterFamily& texts;
  HistogramFamily& batch_size;
  HistogramFamily& input_tokens;
  CounterFamily& tokens;
  CounterFamily& padding_tokens;
  CounterFamily& truncated_texts;
  GaugeFamily& queue_length;
  GaugeFamily& queue_limit;
  CounterFamily& predictions;
  HistogramFamily& confidence;
  GaugeFamily& model_info;
  GaugeFamily& model_memory;
  CounterFamily& shadow_predictions;
  // Serving as a whole.
  std::array<prometheus::Counter*, 2> model_loads;  // error, ok
  prometheus::Histogram& model_load_seconds;
  prometheus::Counter& model_evictions;
  prometheus::Counter& alias_changes;
  std::array<std::array<prometheus::Counter*, 4>, 2> rejections;  // by priority and reason
  prometheus::Counter& expired_executions;
  // Running jobs.
  GaugeFamily& loss;
  GaugeFamily& learning_rate;
  GaugeFamily& gradient_norm;
  GaugeFamily& phase;
  GaugeFamily& progress;
  GaugeFamily& last_step_time;
  GaugeFamily& score;
  GaugeFamily& last_checkpoint_time;
  // All training.
  prometheus::Counter& train_steps;
  prometheus::Counter& train_examples;
  prometheus::Counter& train_tokens;
  prometheus::Counter& non_finite_losses;
  prometheus::Histogram& step_seconds;
  std::array<prometheus::Counter*, 2> checkpoints;  // error, ok
  prometheus::Histogram& checkpoint_seconds;
  prometheus::Counter& checkpoint_fallbacks;
  std::array<prometheus::Counter*, 5> attempts;
  std::array<prometheus::Counter*, 6> trainer_exits;
  // Job counts.
  GaugeFamily& jobs;
  prometheus::Counter& jobs_created;
  CounterFamily& jobs_finished;
  prometheus::Histogram& queue_wait;
  HistogramFamily& job_duration;
  GaugeFamily& oldest_queued;  // without a child while nothing is queued
  // Store.
  HistogramFamily& store_seconds;
  CounterFamily& store_errors;
  CounterFamily& store_retries;
  std::array<prometheus::Gauge*, 2> store_connections;  // in use, idle
  // Server.
  GaugeFamily& build_info;
  GaugeFamily& compute_threads;
  prometheus::Gauge& draining;
  GaugeFamily& health;
  std::array<prometheus::Counter*, 4> log_messages;
  std::shared_ptr<MachineCollector> machine = std::make_shared<MachineCollector>();
  std::shared_ptr<DeviceCollector> devices = std::make_shared<DeviceCollector>();

  // Undoes what Hold did, in its destructor.
  using Releases = std::vector<std::function<void()>>;

  // Adds a child that is removed when the last of its holders has released it: two objects for the
  // same version or job live together for a moment (one is unloaded while another is loaded), and
  // a family hands out one child to both.
  template <typename T, typename... Args>
  T& Hold(prometheus::Family<T>& family, const prometheus::Labels& labels, Releases& releases,
          Args&&... args) {
    absl::MutexLock lock(&mutex);
    T& child = family.Add(labels, std::forward<Args>(args)...);
    ++holders[&child];
    releases.push_back([this, &family, &child] {
      absl::MutexLock lock(&mutex);
      if (--holders[&child] > 0) return;
      holders.erase(&child);
      family.Remove(&child);
    });
    return child;
  }

  absl::Mutex mutex;
  std::map<const void*, int> holders ABSL_GUARDED_BY(mutex);
  std::map<std::string, absl::Time> queued_since ABSL_GUARDED_BY(mutex);  // by job
};

}  // namespace tasuki
