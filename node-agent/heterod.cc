#include "node-agent/heterod.h"

#include <fmt/format.h>
#include <grpcpp/server_builder.h>
#include <spdlog/spdlog.h>

#include "common/metrics/http_server.h"
#include "common/net/endpoint.h"
#include "common/sys/unique_fd.h"
#include "common/tls/credentials.h"
#include "node-agent/admin/admin.h"
#include "node-agent/admin/agent_metrics.h"
#include "node-agent/attach/dpu_engine.h"
#include "node-agent/attach/host_engine.h"
#include "node-agent/attach/spare_namespaces.h"
#include "node-agent/cni_server/server.h"
#include "node-agent/cri/dpu_runtime.h"
#include "node-agent/cri/image_keeper.h"
#include "node-agent/cri/lost_namespaces.h"
#include "node-agent/cri/relay.h"
#include "node-agent/ipam/ipam.h"
#include "node-agent/ledger/ledger.h"
#include "node-agent/peer/client.h"
#include "node-agent/peer/port_stream.h"
#include "node-agent/peer/server.h"
#include "node-agent/peer/synced_ports.h"
#include "node-agent/podnet/podnet.h"
#include "node-agent/ports/placeholder_mechanism.h"
#include "node-agent/ports/ports.h"
#include "node-agent/pu/netns_backend.h"
#include "node-agent/start.h"
#include "node-agent/uplink_mtu.h"

namespace heterok8s::agent {
namespace {

using config::HeterodConfig;

tls::Files TlsFiles(const HeterodConfig& config) {
  return {.ca = config.tls.ca, .certificate = config.tls.certificate, .key = config.tls.key};
}

int64_t UnixMs() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
}

std::string WithPort(const std::string& listen, int port) {
  return fmt::format("{}:{}", listen.substr(0, listen.find_last_of(':')), port);
}

}  // namespace

// In the order in which they are built: everything may use what stands above it. The destructor below ends the threads
// of the lower ones first.
struct Heterod::Parts {
  explicit Parts(const HeterodConfig& c)
      : config(c),
        started_unix_ms(UnixMs()),
        lease({.duration = c.lease.duration, .address = c.peer_address}),
        sync(c.role, [this](std::chrono::nanoseconds ack) { metrics.PortAck(ack); }) {}
  ~Parts();

  absl::Status OpenState();
  absl::Status OpenKernel();
  absl::Status LeavePlaceholders();
  absl::StatusOr<std::vector<std::string>> AttachedNamespaces() const;
  absl::Status BuildEngine();
  absl::Status ServePeer();
  absl::Status ServePeople();
  absl::Status Reconcile() {
    HK_RETURN_IF_ERROR(host_engine ? host_engine->Start() : dpu_engine->Start());
    podnet->CountRefusedFromHere();
    return absl::OkStatus();
  }
  absl::Status ServeCni();

  bool is_host() const { return config.role == pu::Side::kHost; }
  attach::Engine& engine() { return host_engine ? static_cast<attach::Engine&>(*host_engine) : *dpu_engine; }
  attach::Inspect& inspect() { return host_engine ? host_engine->inspect() : dpu_engine->inspect(); }
  absl::Status Ready() const { return host_engine ? host_engine->Ready() : dpu_engine->Ready(); }
  admin::AdminParts ForAdmin();

  const HeterodConfig config;
  const int64_t started_unix_ms;
  admin::AgentMetrics metrics;
  sys::UniqueFd run_dir_lock;
  std::string boot_id;
  uint64_t epoch = 0;
  std::unique_ptr<ledger::Ledger> ledger;
  std::unique_ptr<ipam::Ipam> ipam;
  std::unique_ptr<attach::Namespaces> namespaces;
  attach::SpareNamespaces* spares = nullptr;  // DPU: these are they
  peer::Lease lease;
  peer::Refusals refusals;
  UplinkMtu uplink_mtu;
  peer::PortSync sync;  // before ports, whose thread reports to it
  std::unique_ptr<ports::Ports> ports;
  std::unique_ptr<peer::SyncedPorts> synced_ports;
  std::unique_ptr<podnet::PodNet> podnet;
  std::unique_ptr<pu::Backend> backend;
  std::unique_ptr<peer::GrpcPeerClient> client;
  std::unique_ptr<attach::HostEngine> host_engine;  // one of the two
  std::unique_ptr<attach::DpuEngine> dpu_engine;
  std::unique_ptr<cri::Relay> cri_relay;  // DPU
  std::unique_ptr<cri::DpuRuntimeService> dpu_runtime;
  std::unique_ptr<cri::ImageKeeper> image_keeper;        // DPU
  std::unique_ptr<cri::LostNamespaces> lost_namespaces;  // DPU
  std::unique_ptr<peer::PeerServer> peer_server;
  std::unique_ptr<peer::PortDialer> port_dialer;  // host
  std::unique_ptr<metrics::HttpServer> http;
  std::unique_ptr<admin::AdminServer> admin_server;
  std::unique_ptr<cni_server::Server> cni;
};

Heterod::Parts::~Parts() {
  cni.reset();  // running calls end, and may still need the other PU
  admin_server.reset();
  http.reset();
  port_dialer.reset();
  lease.SetWatcher(nullptr);
  peer_server.reset();
  if (client) client->Stop();
  sync.Stop();  // it asks the engine for links and uses ports and podnet
}

absl::Status Heterod::Parts::OpenState() {
  HK_RETURN_IF_ERROR(MakeFolder(config.state_dir));
  HK_RETURN_IF_ERROR(MakeFolder(config.run_dir));
  HK_ASSIGN_OR_RETURN(run_dir_lock, LockRunDir(config.run_dir));
  HK_RETURN_IF_ERROR(MakeFolder(config.run_dir + "/netns"));
  HK_RETURN_IF_ERROR(MakeFolder(config.run_dir + "/bpf"));
  HK_ASSIGN_OR_RETURN(boot_id, BootId());
  HK_ASSIGN_OR_RETURN(ledger, ledger::Ledger::Open(config.state_dir + "/ledger.db"));
  HK_ASSIGN_OR_RETURN(epoch, NextEpoch(*ledger));
  return absl::OkStatus();
}

absl::Status Heterod::Parts::OpenKernel() {
  HK_ASSIGN_OR_RETURN(ports,
                      ports::NewPorts(config.ports_mechanism,
                                      {.instance = config.instance, .bpffs = config.run_dir + "/bpf", .cgroup2 = ""},
                                      [this](const ports::PortChange& change) { sync.LocalChange(change); }));
  HK_RETURN_IF_ERROR(LeavePlaceholders());
  synced_ports = std::make_unique<peer::SyncedPorts>(*ports, sync);
  HK_ASSIGN_OR_RETURN(Endpoint listen, Endpoint::Parse(config.listen));
  HK_ASSIGN_OR_RETURN(Endpoint peer, Endpoint::Parse(config.peer_address));
  HK_ASSIGN_OR_RETURN(
      podnet, podnet::NewKernelPodNet({.instance = config.instance,
                                       .guard = {.link_range = config.link_range, .listen = listen, .peer = peer}}));
  HK_RETURN_IF_ERROR(podnet->PrepareRoot());
  uplink_mtu.Start();
  HK_ASSIGN_OR_RETURN(
      backend,
      pu::NewNetnsBackend({.side = config.role, .instance = config.instance, .peer_netns = config.peer_netns}));
  return absl::OkStatus();
}

// The configuration, or the kernel, may have made it BPF's turn since the Pods were attached.
absl::Status Heterod::Parts::LeavePlaceholders() {
  if (ports->features().placeholders) return absl::OkStatus();
  HK_ASSIGN_OR_RETURN(std::vector<ledger::Attachment> rows, ledger->ListAttachments());
  for (const ledger::Attachment& row : rows) {
    if (row.mode == ledger::Mode::kOrdinary || row.netns_path.empty()) continue;
    absl::Status left = ports::RemovePlaceholderNat(row.netns_path);
    if (!left.ok()) spdlog::warn("Pod {}: remove the NAT of placeholders: {}", row.pod_key, Message(left));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> Heterod::Parts::AttachedNamespaces() const {
  HK_ASSIGN_OR_RETURN(std::vector<ledger::Attachment> rows, ledger->ListAttachments());
  std::vector<std::string> paths;
  for (const ledger::Attachment& row : rows) paths.push_back(row.netns_path);
  return paths;
}

absl::Status Heterod::Parts::BuildEngine() {
  HK_ASSIGN_OR_RETURN(client, peer::GrpcPeerClient::Create({.address = config.peer_address,
                                                            .files = TlsFiles(config),
                                                            .server = config.peer(),
                                                            .heartbeat_interval = config.lease.interval,
                                                            .lease_duration = config.lease.duration,
                                                            .epoch = epoch,
                                                            .boot_id = boot_id,
                                                            .self_ready = [this] { return Ready(); },
                                                            .self_halves = [this] { return host_engine->Halves(); }},
                                                           lease));
  ipam = ipam::NewIpam();
  namespaces = attach::NewKernelNamespaces();
  if (!is_host()) {
    auto with_spares = attach::NewSpareNamespaces(std::move(namespaces), podnet::FurnishDpuNetns);
    spares = with_spares.get();
    namespaces = std::move(with_spares);
  }
  if (is_host()) {
    host_engine = std::make_unique<attach::HostEngine>(
        attach::HostOptions{.instance = config.instance,
                            .epoch = epoch,
                            .boot_id = boot_id,
                            .host_ephemeral = config.host_ephemeral,
                            .dpu_ephemeral = config.dpu_ephemeral,
                            .link_range = config.link_range,
                            .mtu = config.mtu,
                            .uplink_mtu = [this] { return uplink_mtu.Last(); },
                            .unsplit_when_dpu_down = config.on_dpu_down == config::OnDpuDown::kHost},
        attach::HostDeps{*ledger, *ipam, *podnet, *synced_ports, *backend, *client, *namespaces});
    lease.SetWatcher(host_engine.get());
  } else {
    dpu_engine = std::make_unique<attach::DpuEngine>(
        attach::DpuOptions{.instance = config.instance, .boot_id = boot_id, .netns_folder = config.run_dir + "/netns"},
        attach::DpuDeps{*ledger, *podnet, *synced_ports, *backend, *client, *namespaces});
    lease.SetWatcher(dpu_engine.get());
  }
  sync.Start(*ports, *podnet, [this](const std::string& pod_key) { return inspect().LinkOf(pod_key); });
  return absl::OkStatus();
}

absl::Status Heterod::Parts::ServePeer() {
  peer::ServerParts parts{
      .dpu = dpu_engine.get(), .host = host_engine.get(), .lease = &lease, .ports = &sync, .refusals = &refusals};
  if (!is_host()) {
    // Of this Node only, and only for heterocri: heterod on the host has no business in containers.
    auto authorize = [this](const grpc::ServerContextBase& context) {
      return refusals.Counted(tls::RequirePeer(context, config.node_name, {tls::Role::kCri}));
    };
    cri_relay = std::make_unique<cri::Relay>(cri::RelayOptions{.socket = config.cri_socket, .authorize = authorize});
    HK_ASSIGN_OR_RETURN(dpu_runtime, cri::DpuRuntimeService::Open({.pod_log_root = config.pod_log_root,
                                                                   .volume_root = config.state_dir + "/volumes",
                                                                   .authorize = authorize}));
    image_keeper =
        std::make_unique<cri::ImageKeeper>(cri::ImageKeeperOptions{.socket = config.cri_socket,
                                                                   .state_file = config.state_dir + "/images",
                                                                   .high_percent = config.image_gc_high_percent,
                                                                   .low_percent = config.image_gc_low_percent});
    image_keeper->Start();
    lost_namespaces = std::make_unique<cri::LostNamespaces>(
        cri::LostNamespacesOptions{.attached = [this] { return AttachedNamespaces(); },
                                   .runtime = [this] { return cri::ListenerOf(config.cri_socket); },
                                   .after = config.lost_netns_after});
    lost_namespaces->Start();
    parts.extra_services.push_back([this](grpc::ServerBuilder& builder) { cri_relay->Register(builder); });
    parts.extra_services.push_back(
        [this](grpc::ServerBuilder& builder) { builder.RegisterService(dpu_runtime.get()); });
  }
  HK_ASSIGN_OR_RETURN(peer_server, peer::PeerServer::Start({.listen = config.listen,
                                                            .files = TlsFiles(config),
                                                            .node = config.node_name,
                                                            .epoch = epoch,
                                                            .boot_id = boot_id,
                                                            .uplink_mtu = [this] { return uplink_mtu.Last(); }},
                                                           std::move(parts)));
  spdlog::info("{} listens on {} for {}", config.self().Uri(), WithPort(config.listen, peer_server->port()),
               config.peer().Uri());
  if (is_host()) {
    client->StartHeartbeats();
    port_dialer = std::make_unique<peer::PortDialer>(client->channel(), sync);
  }
  return absl::OkStatus();
}

admin::AdminParts Heterod::Parts::ForAdmin() {
  return {.role = config.role,
          .instance = config.instance,
          .epoch = epoch,
          .started_unix_ms = started_unix_ms,
          .metrics_address = http ? WithPort(config.metrics_listen, http->port()) : "",
          .certificate = config.tls.certificate,
          .inspect = &inspect(),
          .peer = client.get(),
          .lease = &lease,
          .ports = ports.get(),
          .podnet = podnet.get(),
          .spares = spares,
          .port_sync = &sync,
          .refusals = &refusals,
          .backend = backend->caps()};
}

absl::Status Heterod::Parts::ServePeople() {
  metrics.Attach(ForAdmin());
  HK_ASSIGN_OR_RETURN(http, metrics::HttpServer::Start({.listen = config.metrics_listen,
                                                        .collectables = metrics.collectables(),
                                                        .ready = [this] { return Ready(); }}));
  spdlog::info("metrics on http://{}/metrics", WithPort(config.metrics_listen, http->port()));
  HK_ASSIGN_OR_RETURN(admin_server, admin::AdminServer::Start(config.run_dir + "/admin.sock", ForAdmin()));
  return absl::OkStatus();
}

absl::Status Heterod::Parts::ServeCni() {
  cni = std::make_unique<cni_server::Server>(
      cni_server::Options{.socket_path = config.run_dir + "/cni.sock",
                          .queue_dir = config.state_dir + "/cni-queue",
                          .on_call =
                              [this](const cni_server::CallReport& call) {
                                metrics.CniCall(std::string(cni::Name(call.command)), call.code, call.duration);
                              }},
      engine());
  return cni->Start();
}

Heterod::Heterod(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Heterod::~Heterod() = default;

absl::Status CheckConfig(const HeterodConfig& config) {
  return Annotate(tls::CheckFiles(TlsFiles(config), config.self()), "tls");
}

absl::StatusOr<std::unique_ptr<Heterod>> Heterod::Start(const HeterodConfig& config) {
  HK_RETURN_IF_ERROR(CheckConfig(config));
  auto parts = std::make_unique<Parts>(config);
  HK_RETURN_IF_ERROR(parts->OpenState());
  HK_RETURN_IF_ERROR(parts->OpenKernel());
  HK_RETURN_IF_ERROR(parts->BuildEngine());
  // The other PU may ask from here on; until Reconcile() is through it is told that we are not ready, and why.
  HK_RETURN_IF_ERROR(parts->ServePeer());
  HK_RETURN_IF_ERROR(parts->ServePeople());
  HK_RETURN_IF_ERROR(Annotate(parts->Reconcile(), "reconcile"));
  HK_RETURN_IF_ERROR(parts->ServeCni());
  spdlog::info("ready: instance '{}', epoch {}, CNI on {}/cni.sock", config.instance, parts->epoch, config.run_dir);
  return std::unique_ptr<Heterod>(new Heterod(std::move(parts)));
}

int Heterod::peer_port() const { return parts_->peer_server->port(); }
absl::Status Heterod::Health() const { return parts_->ledger->Health(); }
int Heterod::metrics_port() const { return parts_->http->port(); }

}  // namespace heterok8s::agent
