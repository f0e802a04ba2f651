#include "node-agent/admin/admin.h"

#include <fmt/format.h>
#include <grpcpp/server_builder.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "common/metrics/process.h"
#include "common/rpc/status.h"
#include "common/version/version.h"
#include "proto/heterok8s/v1/admin.grpc.pb.h"

namespace heterok8s::admin {
namespace {

const char* Name(pu::Side side) { return side == pu::Side::kHost ? "host" : "dpu"; }

void AddFeature(v1::StatusReply* reply, const std::string& name, const std::string& active, const std::string& detail) {
  v1::Feature* feature = reply->add_features();
  feature->set_name(name);
  feature->set_active(active);
  feature->set_detail(detail);
}

void AddPortFeatures(v1::StatusReply* reply, const ports::KernelFeatures& kernel) {
  if (kernel.placeholders) {
    AddFeature(reply, "port ownership", "placeholder sockets", "no BPF; ports are seen within 20 to 100 ms");
    AddFeature(reply, "bind of the other PU's port", "refused with EADDRINUSE", "who was refused is not known");
    AddFeature(reply, "direct calls", "NAT", "::1 of the other PU cannot be called");
    return;
  }
  AddFeature(reply, "port ownership", kernel.ring_buffer ? "cgroup BPF, events by ring buffer" : "none",
             kernel.cgroup2.empty() ? "" : "attached to " + kernel.cgroup2);
  AddFeature(reply, "bind of the other PU's port",
             kernel.bind_retval ? "refused with EADDRINUSE" : "refused with EPERM",
             kernel.bind_retval ? "" : "kernel before 5.18");
  AddFeature(reply, "direct calls", kernel.sk_lookup ? "sk_lookup, cgroup connect and sendmsg" : "none",
             kernel.sk_lookup ? "" : "kernel before 5.9");
  AddFeature(reply, "names that programs see",
             kernel.name_hooks ? "localhost, by getpeername and getsockname hooks" : "link addresses",
             kernel.name_hooks ? "" : "kernel before 5.8");
  AddFeature(reply, "listeners on localhost", kernel.sockops_listen ? "sockops" : "scan only", "");
}

void AddFeatures(v1::StatusReply* reply, const ports::KernelFeatures& kernel, const AdminParts& parts) {
  AddFeature(reply, "link between the PUs", parts.backend.backend,
             fmt::format("up to {} bytes{}", parts.backend.max_mtu,
                         parts.backend.shared_kernel ? ", both PUs on one kernel" : ""));
  AddPortFeatures(reply, kernel);
  const peer::PortSync::Counters counters = parts.port_sync->counters();
  AddFeature(reply, "port stream", parts.port_sync->connected() ? "connected" : "not connected",
             fmt::format("{} sent, {} received, {} conflicts", counters.sent, counters.received,
                         counters.conflicts_won + counters.conflicts_lost));
  AddFeature(reply, "metrics", "http://" + parts.metrics_address + "/metrics", "");
}

class AdminService final : public v1::Admin::Service {
 public:
  explicit AdminService(AdminParts parts) : parts_(std::move(parts)) {}

  grpc::Status Status(grpc::ServerContext*, const v1::StatusRequest*, v1::StatusReply* reply) override {
    reply->set_role(Name(parts_.role));
    reply->set_version(kVersion);
    reply->set_instance(parts_.instance);
    reply->set_epoch(parts_.epoch);
    reply->set_started_unix_ms(parts_.started_unix_ms);
    reply->set_backend(parts_.backend.backend);

    const attach::LeaseState lease = parts_.peer->lease();
    v1::PeerState* peer = reply->mutable_peer();
    peer->set_address(lease.address);
    peer->set_connected(parts_.port_sync->connected());
    peer->set_lease_valid(lease.valid);
    peer->set_lease_age_ms(lease.age ? lease.age->count() : -1);
    peer->set_epoch(lease.peer_epoch);
    peer->set_last_error(lease.last_error);

    absl::StatusOr<attach::Summary> summary = parts_.inspect->Summarise();
    if (!summary.ok()) return rpc::ToGrpc(summary.status());
    reply->set_attachments(summary->attachments);
    reply->set_split_pods(summary->split_pods);
    reply->set_tombstones(summary->tombstones);
    reply->set_addresses_used(summary->addresses_used);
    reply->set_ready(summary->not_ready_reason.empty());
    reply->set_not_ready_reason(summary->not_ready_reason);

    const metrics::ProcessFigures process = metrics::ReadProcessFigures();
    reply->set_open_files(process.open_files);
    reply->set_resident_bytes(process.resident_bytes);
    reply->set_heap_bytes(process.heap_bytes);
    AddFeatures(reply, parts_.ports->features(), parts_);
    return grpc::Status::OK;
  }

  grpc::Status Why(grpc::ServerContext*, const v1::WhyRequest* request, v1::WhyReply* reply) override {
    absl::StatusOr<attach::PodView> pod = parts_.inspect->FindPod(request->pod());
    if (!pod.ok()) return rpc::ToGrpc(pod.status());
    *reply = Explain(*pod);
    return grpc::Status::OK;
  }

  grpc::Status ListPods(grpc::ServerContext*, const v1::ListPodsRequest*, v1::ListPodsReply* reply) override {
    absl::StatusOr<std::vector<attach::PodView>> pods = parts_.inspect->ListPods();
    if (!pods.ok()) return rpc::ToGrpc(pods.status());
    for (const attach::PodView& pod : *pods) *reply->add_pods() = Explain(pod);
    return grpc::Status::OK;
  }

 private:
  v1::WhyReply Explain(const attach::PodView& pod) const {
    v1::WhyReply reply;
    reply.set_pod_key(pod.pod_key);
    reply.set_pod_namespace(pod.pod_namespace);
    reply.set_pod_name(pod.pod_name);
    reply.set_mode(std::string(ledger::Name(pod.mode)));
    reply.set_state(std::string(ledger::Name(pod.state)));
    reply.set_placement_reason(pod.placement_reason);
    for (const IpAddress& address : pod.addresses) reply.add_addresses(address.ToString());
    reply.set_generation(pod.generation);
    if (pod.peer_generation) reply.set_peer_generation(*pod.peer_generation);
    reply.set_netns_path(pod.netns_path);
    for (const podnet::HostPort& port : pod.host_ports) {
      reply.add_host_ports(fmt::format("{} {}:{} -> {}", heterok8s::Name(port.protocol),
                                       port.host_ip ? port.host_ip->ToString() : "*", port.host_port,
                                       port.container_port));
    }
    AddPorts(pod.pod_key, &reply);
    reply.set_last_refusal(LastRefusal(pod.pod_key));
    return reply;
  }

  // Our own with the time since when; of the other PU's only that PU knows it.
  void AddPorts(const std::string& pod_key, v1::WhyReply* reply) const {
    for (const ports::OwnedPort& owned : parts_.ports->Local(pod_key)) {
      v1::PortOwner* port = reply->add_ports();
      port->set_port(owned.key.ToString());
      port->set_owner(Name(parts_.role));
      port->set_since_unix_ms(owned.since_unix_ms);
    }
    for (const ports::PortKey& key : parts_.ports->Remote(pod_key)) {
      v1::PortOwner* port = reply->add_ports();
      port->set_port(key.ToString());
      port->set_owner(parts_.role == pu::Side::kHost ? "dpu" : "host");
    }
  }

  std::string LastRefusal(const std::string& pod_key) const {
    const std::optional<ports::Refusal> refusal = parts_.ports->LastRefusal(pod_key);
    const std::string conflict = parts_.port_sync->LastConflict(pod_key);
    if (!refusal) return conflict;
    const char* reason = refusal->reason == ports::Refusal::Reason::kOtherPu
                             ? "the other PU owns it"
                             : "the Pod has used its share of ports on this PU and must close some";
    return fmt::format("bind of {} by {} (pid {}) on the {}: {}{}{}", refusal->key.ToString(), refusal->command,
                       refusal->pid, Name(parts_.role), reason, conflict.empty() ? "" : "; ", conflict);
  }

  const AdminParts parts_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::Start(const std::string& socket, AdminParts parts) {
  // A socket that a killed heterod left. That no other heterod is running is the caller's to know (its lock file).
  if (unlink(socket.c_str()) != 0 && errno != ENOENT) return ErrnoToStatus(errno, fmt::format("remove '{}'", socket));
  auto self = std::unique_ptr<AdminServer>(new AdminServer);
  self->lease_ = std::make_unique<peer::LeaseService>(*parts.lease);
  self->service_ = std::make_unique<AdminService>(std::move(parts));
  grpc::ServerBuilder builder;
  int listening = 0;
  builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials(), &listening);
  builder.RegisterService(self->service_.get());
  builder.RegisterService(self->lease_.get());
  self->server_ = builder.BuildAndStart();
  if (self->server_ == nullptr || listening == 0) {
    return absl::UnavailableError(fmt::format("cannot listen on '{}'", socket));
  }
  if (chmod(socket.c_str(), 0600) != 0) return ErrnoToStatus(errno, fmt::format("chmod '{}'", socket));
  return self;
}

AdminServer::~AdminServer() {
  lease_->Stop();  // its readers would keep the server for all of that second
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
}

}  // namespace heterok8s::admin
