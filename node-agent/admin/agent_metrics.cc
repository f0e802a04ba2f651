#include "node-agent/admin/agent_metrics.h"

#include "common/metrics/process.h"
#include "common/sys/file.h"
#include "common/tls/certificate.h"
#include "common/tls/grpc_log.h"

namespace heterok8s::admin {
namespace {

const prometheus::Histogram::BucketBoundaries kCallSeconds = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
                                                              0.2,   0.5,   1,     2,    5,    10,   30};
const prometheus::Histogram::BucketBoundaries kAckSeconds = {0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005,
                                                             0.01,   0.02,   0.05,   0.1,   1};

double Seconds(std::chrono::nanoseconds duration) { return std::chrono::duration<double>(duration).count(); }

void ReadPeer(const AdminParts& parts, metrics::Samples& samples) {
  const attach::LeaseState lease = parts.peer->lease();
  samples.Gauge("heterod_lease_valid", "1 while the other PU's heterod answers", lease.valid ? 1 : 0);
  samples.Gauge("heterod_peer_ready", "1 while it answers that it has reconciled", lease.peer_ready ? 1 : 0);
  if (lease.age) samples.Gauge("heterod_lease_age_seconds", "Since the last good heartbeat", Seconds(*lease.age));
  samples.Gauge("heterod_port_stream_connected", "1 while ports are exchanged", parts.port_sync->connected() ? 1 : 0);
  const peer::PortSync::Counters stream = parts.port_sync->counters();
  samples.Counter("heterod_port_messages_total", "Port messages by direction", stream.sent, {{"direction", "sent"}});
  samples.Counter("heterod_port_messages_total", "", stream.received, {{"direction", "received"}});
  samples.Counter("heterod_port_conflicts_total", "Ports that both PUs claimed", stream.conflicts_won,
                  {{"here", "won"}});
  samples.Counter("heterod_port_conflicts_total", "", stream.conflicts_lost, {{"here", "lost"}});
  samples.Counter("heterod_port_failures_total", "Port changes the kernel did not take at once", stream.failures);
}

void ReadPods(const AdminParts& parts, metrics::Samples& samples) {
  absl::StatusOr<std::vector<attach::PodView>> pods = parts.inspect->ListPods();
  if (!pods.ok()) return;
  double behind = 0, unknown = 0;
  for (const attach::PodView& pod : *pods) {
    const bool half = pod.mode != ledger::Mode::kOrdinary && pod.generation != 0;  // a twin has none before Prepare
    if (half && pod.state == ledger::State::kCommitted) {
      behind += pod.peer_generation.has_value() && *pod.peer_generation != pod.generation;
      unknown += !pod.peer_generation.has_value();
    }
  }
  samples.Gauge("heterod_generations_behind", "Split Pods whose halves are not of one generation", behind);
  samples.Gauge("heterod_generations_unknown", "Split Pods of which the other PU has said nothing yet", unknown);
}

void ReadRefusals(const AdminParts& parts, metrics::Samples& samples) {
  for (const auto& [reason, packets] : parts.podnet->RefusedPackets()) {
    samples.Counter("heterod_refused_packets_total", "Packets that the tables of this PU and its Pods refused",
                    static_cast<double>(packets), {{"reason", reason}});
  }
  samples.Counter("heterod_root_tables_remade_total", "Times that somebody had taken this PU's root nft table away",
                  static_cast<double>(parts.podnet->RootTablesRemade()));
  samples.Counter("heterod_refused_calls_total", "Calls refused because of who made them",
                  static_cast<double>(parts.refusals->no_identity()), {{"reason", "no_identity"}});
  samples.Counter("heterod_refused_calls_total", "", static_cast<double>(parts.refusals->not_allowed()),
                  {{"reason", "not_allowed"}});
  samples.Counter("heterod_refused_calls_total", "", static_cast<double>(tls::FailedHandshakes()),
                  {{"reason", "handshake"}});
}

void ReadPorts(const AdminParts& parts, metrics::Samples& samples) {
  const bool host = parts.role == pu::Side::kHost;
  const ports::Ports::Counters counters = parts.ports->counters();
  double local = counters.owned, remote = 0;
  for (const std::string& pod : parts.ports->ListPods()) remote += parts.ports->Remote(pod).size();
  samples.Gauge("heterod_ports", "Ports of split Pods by owner", host ? local : remote, {{"owner", "host"}});
  samples.Gauge("heterod_ports", "", host ? remote : local, {{"owner", "dpu"}});
  samples.Counter("heterod_port_changes_total", "Ports by what became of them", counters.opened,
                  {{"change", "opened"}});
  samples.Counter("heterod_port_changes_total", "", counters.closed, {{"change", "closed"}});
  samples.Counter("heterod_refused_binds_total", "bind() that was refused", counters.refused_binds,
                  {{"reason", "other_pu"}});
  samples.Counter("heterod_refused_binds_total", "", counters.refused_over_share, {{"reason", "share"}});
  samples.Counter("heterod_unowned_ports_total", "Sockets over their Pod's share that could not be refused",
                  counters.unowned_over_share);
  samples.Counter("heterod_direct_connects_total", "Calls carried to the other PU at the socket",
                  counters.direct_connects);
  samples.Counter("heterod_lost_port_events_total", "Events that found the ring full", counters.lost_events);
  samples.Counter("heterod_port_comparisons_total", "Walks through all ports of this PU", counters.comparisons);
}

void ReadSelf(const AdminParts& parts, metrics::Samples& samples) {
  if (absl::StatusOr<attach::Summary> summary = parts.inspect->Summarise(); summary.ok()) {
    samples.Gauge("heterod_attachments", "Rows of the ledger", summary->attachments);
    samples.Gauge("heterod_split_pods", "Of them, halves of split Pods", summary->split_pods);
    samples.Gauge("heterod_tombstones", "Halves that the other PU must still remove", summary->tombstones);
    samples.Gauge("heterod_addresses_used", "Addresses with an owner, quarantined ones included",
                  summary->addresses_used);
    samples.Gauge("heterod_reservations", "Addresses held for DPU sandboxes", summary->reservations);
    samples.Gauge("heterod_ready", "1 when reconciled", summary->not_ready_reason.empty() ? 1 : 0);
  }
  if (parts.spares != nullptr) {
    const attach::SpareNamespaces::Counters spares = parts.spares->counters();
    samples.Gauge("heterod_spare_namespaces", "Namespaces that wait for a DPU half", spares.ready);
    samples.Counter("heterod_spare_namespace_failures_total", "Times that none could be made ahead", spares.failures);
  }
  if (absl::StatusOr<std::string> pem = sys::ReadFile(parts.certificate, 1u << 20); pem.ok()) {
    if (absl::StatusOr<tls::CertificateInfo> info = tls::ParseCertificate(*pem); info.ok()) {
      samples.Gauge("heterod_certificate_not_after_seconds", "Unix time when our certificate on disk ends",
                    static_cast<double>(std::chrono::system_clock::to_time_t(info->not_after)));
    }
  }
  const metrics::ProcessFigures process = metrics::ReadProcessFigures();
  samples.Gauge("process_open_fds", "Open descriptors", process.open_files);
  samples.Gauge("process_resident_memory_bytes", "Resident memory", process.resident_bytes);
  samples.Gauge("process_heap_in_use_bytes", "Memory that is allocated", process.heap_bytes);
  samples.Gauge("process_start_time_seconds", "Unix time", parts.started_unix_ms / 1000.0);
}

}  // namespace

AgentMetrics::AgentMetrics()
    : calls_(prometheus::BuildCounter()
                 .Name("heterod_cni_calls_total")
                 .Help("CNI calls by verb and error code (0: success)")
                 .Register(*registry_)),
      call_seconds_(prometheus::BuildHistogram()
                        .Name("heterod_cni_call_seconds")
                        .Help("CNI calls, from their arrival to the answer")
                        .Register(*registry_)),
      port_ack_seconds_(prometheus::BuildHistogram()
                            .Name("heterod_port_ack_seconds")
                            .Help("From listen() or close() here to the other PU's acknowledgement")
                            .Register(*registry_)
                            .Add({}, kAckSeconds)) {}

void AgentMetrics::CniCall(const std::string& verb, int code, std::chrono::nanoseconds duration) {
  calls_.Add({{"verb", verb}, {"code", std::to_string(code)}}).Increment();
  call_seconds_.Add({{"verb", verb}}, kCallSeconds).Observe(Seconds(duration));
}

void AgentMetrics::PortAck(std::chrono::nanoseconds latency) { port_ack_seconds_.Observe(Seconds(latency)); }

void AgentMetrics::Attach(AdminParts parts) {
  live_ = std::make_shared<metrics::LiveMetrics>([parts = std::move(parts)](metrics::Samples& samples) {
    ReadPeer(parts, samples);
    ReadPods(parts, samples);
    ReadRefusals(parts, samples);
    ReadPorts(parts, samples);
    ReadSelf(parts, samples);
  });
}

}  // namespace heterok8s::admin
