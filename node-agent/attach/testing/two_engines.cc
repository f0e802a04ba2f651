#include "node-agent/attach/testing/two_engines.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <catch2/catch.hpp>

#include "common/testing/matchers.h"

namespace heterok8s::attach {
namespace {

constexpr char kOwnFolder[] = "/run/hk/netns";

}  // namespace

absl::Status ProcessLedger::Transact(const std::function<absl::Status(ledger::Tx&)>& fn, Durability durability) {
  HK_RETURN_IF_ERROR(process_.Alive());
  return below_.Transact(fn, durability);
}
absl::Status ProcessLedger::Sync() {
  HK_RETURN_IF_ERROR(process_.Alive());
  if (process_.disk_fails) return absl::DataLossError("sync: Input/output error");
  return below_.Sync();
}
absl::Status ProcessLedger::Health() {
  HK_RETURN_IF_ERROR(process_.Alive());
  return below_.Health();
}
absl::StatusOr<std::vector<Attachment>> ProcessLedger::ListAttachments() {
  HK_RETURN_IF_ERROR(process_.Alive());
  return below_.ListAttachments();
}
absl::StatusOr<std::vector<ledger::AddressRow>> ProcessLedger::ListAddresses() {
  HK_RETURN_IF_ERROR(process_.Alive());
  return below_.ListAddresses();
}
absl::StatusOr<std::vector<ledger::Tombstone>> ProcessLedger::ListTombstones() {
  HK_RETURN_IF_ERROR(process_.Alive());
  return below_.ListTombstones();
}

absl::StatusOr<pu::LinkEnd> ProcessBackend::AcquireLink(const pu::OwnerTag& tag, const pu::LinkRequest& request) {
  HK_RETURN_IF_ERROR(process_.Alive());
  return below_.AcquireLink(tag, request);
}
absl::StatusOr<pu::LinkEnd> ProcessBackend::AcceptLink(const pu::OwnerTag& tag, const pu::LinkRequest& request) {
  HK_RETURN_IF_ERROR(process_.Alive());
  return below_.AcceptLink(tag, request);
}
absl::Status ProcessBackend::ReleaseLink(const pu::OwnerTag& tag, const sys::NetnsRef* netns) {
  HK_RETURN_IF_ERROR(process_.Alive());
  return below_.ReleaseLink(tag, netns);
}
absl::StatusOr<std::vector<pu::OwnerTag>> ProcessBackend::ListLinks() {
  HK_RETURN_IF_ERROR(process_.Alive());
  return below_.ListLinks();
}

TwoEngines::TwoEngines(Options options) : options_(std::move(options)) {
  // Made before there are threads: ThreadSanitizer does not see how libspdlog's own code makes it once.
  spdlog::default_logger();
  StartDpu();
  StartHost();
}

TwoEngines::~TwoEngines() {
  // Each calls into the other: both are cut off before either goes.
  host_process.dead = true;
  dpu_process.dead = true;
  to_host.SetHost(nullptr);
  to_dpu.SetDpu(nullptr);
  host_engine_.reset();
  dpu_engine_.reset();
}

void TwoEngines::StartHost() {
  host_engine_ = std::make_unique<HostEngine>(
      HostOptions{.instance = "demo",
                  .epoch = 1,
                  .boot_id = options_.boot_id,
                  .link_range = *IpPrefix::Parse("169.254.64.0/24"),
                  .mtu = options_.mtu,
                  .uplink_mtu = [this] { return host_uplink_mtu; },
                  .unsplit_when_dpu_down = options_.unsplit_when_dpu_down,
                  .retry_interval = options_.retry_interval},
      HostDeps{host_process_ledger_, *ipam_, host_podnet, host_ports, host_backend_, to_dpu, host_namespaces});
  REQUIRE_OK(host_engine_->Start());
  to_host.SetHost(host_engine_.get());
}

void TwoEngines::StartDpu() {
  dpu_engine_ = std::make_unique<DpuEngine>(
      DpuOptions{.instance = "demo",
                 .boot_id = options_.boot_id,
                 .netns_folder = kOwnFolder,
                 .retry_interval = options_.retry_interval},
      DpuDeps{dpu_process_ledger_, dpu_podnet, dpu_ports, dpu_backend_, to_host, dpu_namespaces});
  REQUIRE_OK(dpu_engine_->Start());
  to_dpu.SetDpu(dpu_engine_.get());
}

void TwoEngines::CrashHost() {
  host_process.dead = true;
  to_host.SetHost(nullptr);
  host_engine_.reset();
  host_process.dead = false;
  StartHost();
}

void TwoEngines::CrashDpu() {
  dpu_process.dead = true;
  to_dpu.SetDpu(nullptr);
  dpu_engine_.reset();
  dpu_process.dead = false;
  StartDpu();
}

void TwoEngines::Reboot(const std::string& boot_id) {
  host_process.dead = dpu_process.dead = true;
  to_host.SetHost(nullptr);
  to_dpu.SetDpu(nullptr);
  host_engine_.reset();
  dpu_engine_.reset();
  std::vector<Attachment> rows = *host_ledger->ListAttachments();
  for (const Attachment& row : rows) host_kernel.DestroyNetns(row.netns_path);
  rows = *dpu_ledger->ListAttachments();
  for (const Attachment& row : rows) dpu_kernel.DestroyNetns(row.netns_path);
  options_.boot_id = boot_id;
  host_process.dead = dpu_process.dead = false;
  StartDpu();
  StartHost();
}

void TwoEngines::SetConnected(bool connected) {
  to_dpu.SetDown(!connected);
  to_host.SetDown(!connected);
}

void TwoEngines::ResyncBoth() {
  REQUIRE_OK(host().Resync());
  REQUIRE_OK(dpu().Resync());
}

void TwoEngines::Heartbeat() {
  host().PeerHas(dpu().Halves());
  dpu().PeerHas(host().Halves());
}

nlohmann::json TwoEngines::Config(const Annotations& annotations) const {
  nlohmann::json config = {{"cniVersion", "1.1.0"},
                           {"name", "podnet"},
                           {"type", "heterok8s-cni"},
                           {"ipam", {{"type", "heterok8s"}, {"ranges", {{{{"subnet", subnet}}}}}}}};
  if (!annotations.empty()) config["runtimeConfig"]["io.kubernetes.cri.pod-annotations"] = annotations;
  return config;
}

cni::Request TwoEngines::Request(cni::Command command, const std::string& container, const std::string& uid,
                                 nlohmann::json config) {
  std::map<std::string, std::string> environment = {{"CNI_COMMAND", std::string(Name(command))}};
  if (!cni_path.empty()) environment["CNI_PATH"] = cni_path;
  if (!container.empty()) {
    environment["CNI_CONTAINERID"] = container;
    environment["CNI_NETNS"] = "/run/netns/" + container;
    environment["CNI_IFNAME"] = "eth0";
    environment["CNI_ARGS"] =
        fmt::format("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-{};K8S_POD_UID={}", uid, uid);
  }
  absl::StatusOr<cni::Request> request = cni::ParseRequest(environment, config.dump());
  REQUIRE_OK(request);
  return *request;
}

cni::Request TwoEngines::HostAdd(const std::string& container, const std::string& uid, const Annotations& annotations,
                                 uint16_t host_port) {
  nlohmann::json config = Config(annotations);
  if (host_port != 0) {
    config["runtimeConfig"]["portMappings"] = {{{"hostPort", host_port}, {"containerPort", 80}, {"protocol", "tcp"}}};
  }
  config.update(extra_config);
  cni::Request request = Request(cni::Command::kAdd, container, uid, config);
  host_kernel.AddNetns(request.netns);
  return request;
}

cni::Request TwoEngines::TwinAdd(const std::string& container, const std::string& uid) {
  cni::Request request = Request(cni::Command::kAdd, container, uid, Config({{"heteropod.io/placement", "split"}}));
  dpu_kernel.AddNetns(request.netns);
  return request;
}

cni::Request TwoEngines::Del(cni::Request add) {
  add.command = cni::Command::kDel;
  return add;
}

cni::Request TwoEngines::Check(cni::Request add, const cni::Result& result) {
  add.command = cni::Command::kCheck;
  add.config.prev_result = result;
  return add;
}

cni::Request TwoEngines::Gc(const std::vector<cni::AttachmentRef>& valid) {
  nlohmann::json config = Config({});
  config.update(extra_config);
  config["cni.dev/valid-attachments"] = nlohmann::json::array();
  for (const cni::AttachmentRef& ref : valid) {
    config["cni.dev/valid-attachments"].push_back({{"containerID", ref.container_id}, {"ifname", ref.ifname}});
  }
  return Request(cni::Command::kGc, "", "", std::move(config));
}

cni::Request TwoEngines::StatusRequest() { return Request(cni::Command::kStatus, "", "", Config({})); }

std::vector<std::string> TwoEngines::Leftovers() {
  std::vector<std::string> left;
  auto add = [&](const std::string& where, const std::vector<std::string>& what) {
    for (const std::string& item : what) left.push_back(where + ": " + item);
  };
  auto rows = [&](const std::string& where, ledger::Ledger& ledger) {
    std::vector<std::string> what;
    std::vector<Attachment> attachments = *ledger.ListAttachments();
    for (const Attachment& row : attachments) {
      what.push_back(fmt::format("row {} {} {}", row.key.container_id, Name(row.mode), Name(row.state)));
    }
    std::vector<ledger::AddressRow> addresses = *ledger.ListAddresses();
    for (const ledger::AddressRow& row : addresses) {
      what.push_back(fmt::format("address {} of {} in {}", row.address.ToString(), row.owner, row.network));
    }
    std::vector<ledger::Tombstone> tombstones = *ledger.ListTombstones();
    for (const ledger::Tombstone& t : tombstones) what.push_back(fmt::format("tombstone {} ({})", t.pod_key, t.reason));
    add(where, what);
  };
  add("host", host_kernel.Objects(kOwnFolder));
  add("dpu", dpu_kernel.Objects(kOwnFolder));
  rows("host", host_ledger.ledger());
  rows("dpu", dpu_ledger.ledger());
  if (fabric.size() > 0) left.push_back(fmt::format("{} links", fabric.size()));
  return left;
}

uint64_t TwoEngines::HostGeneration(const std::string& uid) {
  absl::StatusOr<PodView> pod = host().inspect().FindPod(uid);
  return pod.ok() ? pod->generation : 0;
}

uint64_t TwoEngines::DpuGeneration(const std::string& uid) {
  absl::StatusOr<PodView> pod = dpu().inspect().FindPod(uid);
  return pod.ok() ? pod->generation : 0;
}

}  // namespace heterok8s::attach
