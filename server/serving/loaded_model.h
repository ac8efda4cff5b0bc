// A model version in memory, as requests hold it.
#pragma once

#include <memory>
#include <string>

#include "model/t5/classifier.h"
#include "server/metrics/metrics.h"

namespace tasuki {

// Immutable; thread-safe. Shared by the requests that it answers and freed after the last of them.
struct LoadedModel {
  std::string name;  // `models/{model}/versions/{version}`
  // The version whose weights it shares, if it answers by an adapter; classifier->memory_bytes() is
  // then of the adapter alone.
  std::string shared_base_model_version;
  std::unique_ptr<const Classifier> classifier;
  int64_t memory_bytes = 0;               // of its weights
  std::unique_ptr<ModelMetrics> metrics;  // never null
};

}  // namespace tasuki
