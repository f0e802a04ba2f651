// heterosockd's metrics: what the agent counts, as Prometheus wants it.
//
// Threading: collected on the HTTP server's threads; asks the agent's thread and waits for a second at most.
// Ownership: borrows the agent, which must outlive the server that collects. Errors: none; an agent
// that does not answer in time shows no figures.
//
//   auto metrics = MakeMetrics(*agent);
#pragma once

#include <memory>

#include "common/metrics/samples.h"
#include "heterosock/agent/agent.h"

namespace heterok8s::heterosock::agent {

std::shared_ptr<metrics::LiveMetrics> MakeMetrics(Agent& agent);

}  // namespace heterok8s::heterosock::agent
