// Metrics whose values are read when somebody asks, instead of being counted as they happen.
//
// Threading: `read` is called on the thread that collects, maybe on several at once. Ownership: holds `read`. Errors:
// none; what cannot be read is left out.
//
//   auto live = std::make_shared<LiveMetrics>([&](Samples& samples) {
//     samples.Gauge("heterod_tombstones", "Halves that the other PU must still remove", ledger_tombstones());
//     samples.Gauge("heterod_ports", "Ports by owner", 3, {{"owner", "dpu"}});
//   });
#pragma once

#include <prometheus/collectable.h>
#include <prometheus/metric_family.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

namespace heterok8s::metrics {

class Samples {
 public:
  using Labels = std::map<std::string, std::string>;
  void Gauge(const std::string& name, const std::string& help, double value, const Labels& labels = {});
  void Counter(const std::string& name, const std::string& help, double value, const Labels& labels = {});
  std::vector<prometheus::MetricFamily> Take() { return std::move(families_); }

 private:
  prometheus::ClientMetric& Add(const std::string& name, const std::string& help, prometheus::MetricType type,
                                const Labels& labels);
  std::vector<prometheus::MetricFamily> families_;
};

class LiveMetrics final : public prometheus::Collectable {
 public:
  explicit LiveMetrics(std::function<void(Samples&)> read) : read_(std::move(read)) {}
  std::vector<prometheus::MetricFamily> Collect() const override {
    Samples samples;
    read_(samples);
    return samples.Take();
  }

 private:
  const std::function<void(Samples&)> read_;
};

}  // namespace heterok8s::metrics
