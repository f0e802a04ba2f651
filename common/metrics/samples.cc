#include "common/metrics/samples.h"

#include <algorithm>

namespace heterok8s::metrics {

prometheus::ClientMetric& Samples::Add(const std::string& name, const std::string& help, prometheus::MetricType type,
                                       const Labels& labels) {
  auto family = std::find_if(families_.begin(), families_.end(), [&](const auto& f) { return f.name == name; });
  if (family == families_.end()) {
    families_.push_back({.name = name, .help = help, .type = type, .metric = {}});
    family = families_.end() - 1;
  }
  prometheus::ClientMetric& metric = family->metric.emplace_back();
  for (const auto& [label, value] : labels) metric.label.push_back({.name = label, .value = value});
  return metric;
}

void Samples::Gauge(const std::string& name, const std::string& help, double value, const Labels& labels) {
  Add(name, help, prometheus::MetricType::Gauge, labels).gauge.value = value;
}

void Samples::Counter(const std::string& name, const std::string& help, double value, const Labels& labels) {
  Add(name, help, prometheus::MetricType::Counter, labels).counter.value = value;
}

}  // namespace heterok8s::metrics
