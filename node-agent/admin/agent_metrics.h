// What heterod shows on /metrics.
//
// Purpose: counts CNI calls and port acknowledgements as they happen; everything else (lease age, ports by owner,
// generations behind, tombstones, refused packets, descriptors) is read when somebody asks.
// Threading: thread-safe. Ownership: borrows the objects of AdminParts once Attach() was called. Errors: none; what
// cannot be read is left out.
//
//   AgentMetrics metrics;
//   metrics.CniCall("ADD", 0, duration);
//   metrics.Attach(parts);
//   HttpServer::Start({.listen = …, .collectables = metrics.collectables()});
#pragma once

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "common/metrics/samples.h"
#include "node-agent/admin/admin.h"

namespace heterok8s::admin {

class AgentMetrics {
 public:
  AgentMetrics();

  void CniCall(const std::string& verb, int code, std::chrono::nanoseconds duration);
  void PortAck(std::chrono::nanoseconds latency);
  void Attach(AdminParts parts);
  std::vector<std::weak_ptr<prometheus::Collectable>> collectables() const { return {registry_, live_}; }

 private:
  const std::shared_ptr<prometheus::Registry> registry_ = std::make_shared<prometheus::Registry>();
  std::shared_ptr<metrics::LiveMetrics> live_;
  prometheus::Family<prometheus::Counter>& calls_;
  prometheus::Family<prometheus::Histogram>& call_seconds_;
  prometheus::Histogram& port_ack_seconds_;
};

}  // namespace heterok8s::admin
