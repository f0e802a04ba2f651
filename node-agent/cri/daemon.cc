#include "node-agent/cri/daemon.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <filesystem>
#include <set>

#include "common/fault/fault.h"
#include "common/metrics/process.h"
#include "common/sys/file.h"
#include "common/tls/certificate.h"
#include "common/tls/credentials.h"
#include "node-agent/cri/grpc_status.h"
#include "node-agent/cri/relay.h"

namespace heterok8s::cri {
namespace {

constexpr std::chrono::milliseconds kRetryHost{200};
constexpr std::chrono::seconds kLastCalls{5};
constexpr std::chrono::seconds kOwnAnswer{5};

// One heterocri per state folder: a second one would take the socket from the first.
absl::StatusOr<sys::UniqueFd> LockState(const std::string& state_dir) {
  std::error_code error;
  std::filesystem::create_directories(state_dir, error);
  if (error) return ErrnoToStatus(error.value(), fmt::format("make folder '{}'", state_dir));
  std::string path = state_dir + "/heterocri.lock";
  sys::UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoToStatus(errno, fmt::format("open '{}'", path));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(fmt::format("another heterocri runs with '{}'", state_dir));
  }
  return fd;
}

}  // namespace

class Daemon::RouterService final : public v1::Router::Service {
 public:
  explicit RouterService(cri::Router& router) : router_(router) {}
  grpc::Status Placements(grpc::ServerContext*, const v1::PlacementsRequest* request,
                          v1::PlacementsReply* reply) override {
    absl::StatusOr<v1::PlacementsReply> placements = router_.Placements(request->pod_uid());
    if (placements.ok()) *reply = *std::move(placements);
    return ToGrpc(placements.status());
  }

 private:
  cri::Router& router_;
};

absl::StatusOr<std::shared_ptr<grpc::Channel>> DpuChannel(const HeterocriConfig& config) {
  HK_ASSIGN_OR_RETURN(std::string pem, sys::ReadFile(config.certificate));
  HK_ASSIGN_OR_RETURN(tls::CertificateInfo own, tls::ParseCertificate(pem));
  if (!own.identity || own.identity->role != tls::Role::kCri) {
    return absl::FailedPreconditionError(fmt::format("'{}' is no certificate for the role 'cri'", config.certificate));
  }
  HK_ASSIGN_OR_RETURN(auto credentials,
                      tls::ClientCredentials({.ca = config.ca, .certificate = config.certificate, .key = config.key}));
  grpc::ChannelArguments arguments;
  tls::ExpectServer(arguments, {.node = own.identity->node, .role = tls::Role::kDpu});
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  // A DPU that returns is seen within a lease, not after gRPC's two minutes.
  const int interval = static_cast<int>(config.lease_interval.count());
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, std::min(interval, 200));
  // Despite its name: how long one attempt may take, the TLS handshake included.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, static_cast<int>(config.lease_duration.count()));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, interval);
  // A DPU that vanishes sends no RST, and a link that was cut leaves TCP waiting for up to two minutes after it is
  // back: keepalive ends the connection, so that the next attempt makes a new one.
  const int duration = static_cast<int>(config.lease_duration.count());
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, duration);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, duration);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  return grpc::CreateCustomChannel(config.dpu_address, credentials, arguments);
}

Daemon::Daemon(const HeterocriConfig& config, std::shared_ptr<grpc::Channel> dpu)
    : config_(config),
      dpu_channel_(std::move(dpu)),
      host_channel_(UnixChannel(config.host_socket)),
      dpu_keeper_(dpu_channel_),
      host_keeper_(host_channel_),
      host_(host_channel_),
      dpu_(dpu_channel_),
      runtime_(v1::DpuRuntime::NewStub(dpu_channel_)),
      table_(config.state_dir + "/cri.state"),
      events_(table_, host_),
      mirror_(*runtime_, config.state_dir + "/cri-logs", [this] {
        if (DpuLink* link = link_of_mirror_.load()) link->PollSoon();
      }) {
  link_ = std::make_unique<DpuLink>(DpuLinkOptions{.interval = config.lease_interval,
                                                   .duration = config.lease_duration,
                                                   .pod_log_root = config.dpu_paths.pod_log_root,
                                                   .heterod_socket = config.heterod_socket},
                                    dpu_, *runtime_, table_, mirror_, tasks_);
  link_of_mirror_ = link_.get();
}

absl::Status Daemon::Connect() {
  HK_ASSIGN_OR_RETURN(mark_, SandboxMark::Open(config_.state_dir + "/cri.key"));
  HK_ASSIGN_OR_RETURN(streaming_, StreamingServer::Start(*runtime_, [this] { return link_->Alive(); }));
  volumes_ =
      std::make_unique<VolumeMirror>(*runtime_, config_.state_dir + "/cri-volumes", [this] { return link_->Alive(); });
  HK_RETURN_IF_ERROR(volumes_->Start());
  router_ = std::make_unique<Router>(
      RouterOptions{.rules = config_.rules, .paths = config_.dpu_paths},
      RouterParts{host_, dpu_, *runtime_, table_, *link_, mirror_, tasks_, *streaming_, *volumes_, events_, mark_});
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(const HeterocriConfig& config, std::shared_ptr<grpc::Channel> dpu,
                                                      std::function<bool()> stopping) {
  HK_ASSIGN_OR_RETURN(sys::UniqueFd lock, LockState(config.state_dir));
  std::unique_ptr<Daemon> daemon(new Daemon(config, std::move(dpu)));
  daemon->lock_ = std::move(lock);
  HK_RETURN_IF_ERROR(daemon->Connect());
  HK_RETURN_IF_ERROR(daemon->ServeMetrics());
  HK_RETURN_IF_ERROR(daemon->Rebuild(stopping));
  HK_RETURN_IF_ERROR(daemon->Serve());
  return daemon;
}

absl::Status Daemon::Rebuild(const std::function<bool()>& stopping) {
  absl::Status loaded = table_.Load();
  // Without it only what happened while the DPU was away is forgotten; refusing to start would end every Pod's care.
  if (!loaded.ok() && loaded.code() != absl::StatusCode::kNotFound)
    spdlog::error("{}; starting without it", ToString(loaded));
  std::string last;
  while (true) {
    absl::Status host = router_->RebuildFromHost();
    if (host.ok()) break;
    if (stopping()) return absl::CancelledError("stopped before the host's runtime answered");
    if (Message(host) != last) spdlog::warn("the host's runtime does not answer yet: {}", last = Message(host));
    std::this_thread::sleep_for(kRetryHost);
  }
  HK_FAULT_POINT("cri.start.after-host");
  std::set<std::string> pod_uids;
  for (const SplitPod& pod : table_.Pods()) pod_uids.insert(pod.metadata.uid());
  volumes_->KeepOnly(pod_uids);
  link_->Start();
  link_->WaitUntilKnown();
  spdlog::info("{} Pods that asked for a split, {} containers on the DPU, the DPU is {}", table_.Pods().size(),
               table_.Containers().size(), Name(link_->state()));
  HK_FAULT_POINT("cri.start.before-serving");
  return absl::OkStatus();
}

void Daemon::Handle(std::shared_ptr<Call> call) {
  ++calls_;
  if (FindMethod(call->method()) == nullptr) ++unknown_;
  router_->Handle(std::move(call));
}

absl::Status Daemon::Serve() {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(config_.listen).parent_path(), error);
  router_service_ = std::make_unique<RouterService>(*router_);
  service_ = std::make_unique<ByteService>([this](std::shared_ptr<Call> call) { Handle(std::move(call)); });
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
  builder.RegisterService(router_service_.get());
  builder.RegisterCallbackGenericService(service_.get());
  // Made for root alone from the start, whatever our umask: whoever opens it is root on this Node.
  mode_t before = umask(0177);
  builder.AddListeningPort("unix:" + config_.listen, grpc::InsecureServerCredentials());
  server_ = builder.BuildAndStart();
  umask(before);
  if (!server_) return absl::UnavailableError(fmt::format("cannot listen on '{}'", config_.listen));
  spdlog::info("CRI on '{}'", config_.listen);
  return absl::OkStatus();
}

bool Daemon::Answers() {
  if (!self_) self_ = std::make_unique<CriClient>(UnixChannel(config_.listen));
  return self_->CallBytes("/runtime.v1.RuntimeService/CheckpointPod", ToBuffer(""), In(kOwnAnswer)).status().code() ==
         absl::StatusCode::kUnimplemented;
}

absl::Status Daemon::ServeMetrics() {
  figures_ = std::make_shared<metrics::LiveMetrics>([this](metrics::Samples& samples) {
    size_t running = 0, lost = 0, split = 0;
    std::vector<DpuContainer> containers = table_.Containers();
    for (const DpuContainer& container : containers) {
      running += container.running();
      lost += container.lost;
    }
    std::vector<SplitPod> pods = table_.Pods();
    for (const SplitPod& pod : pods) split += pod.verdict.split;
    samples.Gauge("heterocri_pods", "Pods that asked for a split, by where they are", static_cast<double>(split),
                  {{"placement", "split"}});
    samples.Gauge("heterocri_pods", "Pods that asked for a split, by where they are",
                  static_cast<double>(pods.size() - split), {{"placement", "host"}});
    samples.Gauge("heterocri_dpu_containers", "Containers on the DPU", static_cast<double>(containers.size()));
    samples.Gauge("heterocri_dpu_containers_running", "Containers that run on the DPU", static_cast<double>(running));
    samples.Gauge("heterocri_dpu_containers_lost", "Containers shown as DPULost", static_cast<double>(lost));
    const DpuState state = link_->state();
    samples.Gauge("heterocri_dpu_ready", "1 while containers can be put on the DPU", state == DpuState::kHere ? 1 : 0);
    samples.Gauge("heterocri_dpu_alive", "1 while the DPU is not lost", state != DpuState::kLost ? 1 : 0);
    samples.Gauge("heterocri_dpu_lease_age_seconds", "Since the last good answer of the DPU's runtime; -1: never",
                  link_->LeaseAge().count() < 0 ? -1 : static_cast<double>(link_->LeaseAge().count()) / 1000);
    samples.Gauge("heterocri_dpu_epoch", "Rises when the DPU is lost", static_cast<double>(table_.epoch()));
    const RouterFigures& figures = router_->figures();
    samples.Counter("heterocri_dpu_containers_created_total", "Containers made on the DPU",
                    static_cast<double>(figures.containers_on_dpu));
    samples.Counter("heterocri_fallbacks_total", "What should be on the DPU and went to the host",
                    static_cast<double>(figures.pod_fallbacks), {{"what", "pod"}});
    samples.Counter("heterocri_fallbacks_total", "What should be on the DPU and went to the host",
                    static_cast<double>(figures.container_fallbacks), {{"what", "container"}});
    samples.Counter("heterocri_calls_total", "CRI calls", static_cast<double>(calls_));
    samples.Counter("heterocri_unknown_methods_total", "Calls of methods that are not known",
                    static_cast<double>(unknown_));
    samples.Counter("heterocri_volume_updates_total", "Versions of volumes that were sent to the DPU",
                    static_cast<double>(volumes_->updates()));
    samples.Gauge("heterocri_streaming_sessions", "Open Exec and Attach sessions of containers on the DPU",
                  static_cast<double>(streaming_->sessions()));
    metrics::ProcessFigures process = metrics::ReadProcessFigures();
    samples.Gauge("heterocri_open_files", "Open descriptors", static_cast<double>(process.open_files));
    samples.Gauge("heterocri_resident_bytes", "Resident memory", static_cast<double>(process.resident_bytes));
  });
  HK_ASSIGN_OR_RETURN(
      metrics_,
      metrics::HttpServer::Start(
          {.listen = config_.metrics_listen,
           .collectables = {figures_},
           // Ready without the DPU: Pods run on the host then.
           .ready = [this] { return server_ ? absl::OkStatus() : absl::UnavailableError("state is being rebuilt"); }}));
  spdlog::info("metrics on port {}", metrics_->port());
  return absl::OkStatus();
}

void Daemon::Stop() {
  events_.Stop();  // its streams would keep the server for all of kLastCalls
  if (server_) server_->Shutdown(std::chrono::system_clock::now() + kLastCalls);
  metrics_.reset();
  if (streaming_) streaming_->Stop();
  tasks_.Wait();
  if (volumes_) volumes_->Stop();
  link_->Stop();
  mirror_.Close();  // its streams tell the link of their end
}

Daemon::~Daemon() { Stop(); }

}  // namespace heterok8s::cri
