// Families of what is read from the system at a scrape. Private to server/metrics.
#pragma once

#include <string>
#include <utility>

#include "prometheus/metric_family.h"

namespace tasuki {

inline prometheus::MetricFamily Family(const std::string& name, const std::string& help,
                                       prometheus::MetricType type) {
  prometheus::MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  return family;
}

// Adds a sample with the family's type, a counter's or a gauge's.
inline prometheus::ClientMetric& AddSample(prometheus::MetricFamily& family, double value) {
  prometheus::ClientMetric& metric = family.metric.emplace_back();
  if (family.type == prometheus::MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  return metric;
}

inline void AddSample(prometheus::MetricFamily& family, double value, const std::string& label,
                      const std::string& of) {
  AddSample(family, value).label.push_back({label, of});
}

}  // namespace tasuki
