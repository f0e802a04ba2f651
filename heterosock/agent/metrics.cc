#include "heterosock/agent/metrics.h"

#include <future>
#include <nlohmann/json.hpp>

#include "common/metrics/process.h"

namespace heterok8s::heterosock::agent {
namespace {

constexpr std::chrono::seconds kPatience{1};

}  // namespace

std::shared_ptr<metrics::LiveMetrics> MakeMetrics(Agent& agent) {
  return std::make_shared<metrics::LiveMetrics>([&agent](metrics::Samples& samples) {
    auto promise = std::make_shared<std::promise<nlohmann::json>>();
    std::future<nlohmann::json> answer = promise->get_future();
    agent.Post([promise](Agent& a) { promise->set_value(a.Totals()); });
    if (answer.wait_for(kPatience) != std::future_status::ready) return;  // no sample is better than a wrong one
    const nlohmann::json totals = answer.get();
    const auto gauge = [&](const char* name, const char* help, const char* key) {
      samples.Gauge(name, help, totals.at(key).get<double>());
    };
    const auto counter = [&](const char* name, const char* help, const char* key) {
      samples.Counter(name, help, totals.at(key).get<double>());
    };
    gauge("heterosockd_processes", "Processes with the library that are connected", "processes");
    gauge("heterosockd_channels", "Connections on shared memory", "channels");
    gauge("heterosockd_waiting_offers", "Offers whose other end has not been offered", "waiting_offers");
    gauge("heterosockd_memory_bytes", "Shared memory that channels really use", "memory_bytes");
    counter("heterosockd_shared_bytes_total", "Bytes sent through shared memory, as the ends say", "shared_bytes");
    counter("heterosockd_offers_total", "Connections that libraries offered", "offers");
    counter("heterosockd_pairs_total", "Connections that got a channel", "pairs");
    counter("heterosockd_pairs_by_token_total", "Of those, matched by a token", "pairs_by_token");
    counter("heterosockd_releases_total", "Ends that said they are done", "releases");
    counter("heterosockd_resumes_total", "Ends that an earlier agent or a parent process had", "resumes");
    counter("heterosockd_fences_total", "Channels that were asked to go back to TCP", "fences");
    counter("heterosockd_handed_back_bytes_total", "Bytes written to TCP in the place of a busy sender",
            "handed_back_bytes");
    counter("heterosockd_malformed_total", "Connections dropped for what they sent", "malformed");
    counter("heterosockd_refused_total", "Libraries refused by limits or version", "refused");
    for (const auto& [reason, count] : totals.at("declines").items()) {
      samples.Counter("heterosockd_declined_total", "Offers declined, by reason", count.get<double>(),
                      {{"reason", reason}});
    }
    samples.Gauge("heterosockd_other_pu_joined", "1 while joined with the other PU's agent",
                  totals.at("pu_link").get<bool>() ? 1 : 0);
    samples.Gauge("heterosockd_stays_on_tcp", "1 while an operator has all connections stay on TCP",
                  totals.at("stays_on_tcp").get<bool>() ? 1 : 0);
    const metrics::ProcessFigures figures = metrics::ReadProcessFigures();
    samples.Gauge("heterosockd_open_files", "Open descriptors of the agent", static_cast<double>(figures.open_files));
    samples.Gauge("heterosockd_resident_bytes", "Resident memory of the agent",
                  static_cast<double>(figures.resident_bytes));
  });
}

}  // namespace heterok8s::heterosock::agent
