#include "node-agent/ports/kernel.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <span>
#include <sstream>
#include <vector>

#include "common/bpf/log.h"
#include "common/bpf/mounts.h"
#include "common/bpf/object.h"
#include "common/bpf/probe.h"
#include "common/sys/unique_fd.h"
#include "node-agent/ports/programs.bpf.h"

namespace heterok8s::ports {
namespace {

constexpr uint32_t kMetaKey = 0;

// The constants of the object, as bpf/maps.h declares them.
struct Constants {
  bool have_set_retval, have_post_bind_retval;
};

std::span<const unsigned char> Embedded() { return {programs_bpf, programs_bpf_len}; }

bool IsCgroupProgram(const bpf_program* program) {
  bpf_prog_type type = bpf_program__type(program);
  return type == BPF_PROG_TYPE_CGROUP_SOCK || type == BPF_PROG_TYPE_CGROUP_SOCK_ADDR || type == BPF_PROG_TYPE_SOCK_OPS;
}

// What an earlier heterod left: absent, or the layout and object it was made with.
std::optional<hk_meta> PinnedMeta(const std::string& bpffs) {
  sys::UniqueFd fd(bpf_obj_get(fmt::format("{}/maps/meta", bpffs).c_str()));
  hk_meta meta{};
  if (!fd.valid() || bpf_map_lookup_elem(fd.get(), &kMetaKey, &meta) != 0) return std::nullopt;
  return meta;
}

absl::Status RemoveAllPins(const std::string& bpffs) {
  // Links first: a program must not outlive the pins of the maps through which it is ruled.
  for (const char* folder : {"links", "pods", "maps"}) {
    std::error_code error;
    std::filesystem::remove_all(fmt::format("{}/{}", bpffs, folder), error);
    if (error) return ErrnoToStatus(error.value(), fmt::format("remove '{}/{}'", bpffs, folder));
  }
  return absl::OkStatus();
}

// Whether the network namespace of this thread has a TCP socket at all. A new Pod's has none, and the iterator would
// walk the connections of all namespaces to find that out (0.8 ms); these two files take some microseconds.
bool HasTcpSockets() {
  for (const char* file : {"/proc/thread-self/net/sockstat", "/proc/thread-self/net/sockstat6"}) {
    std::ifstream in(file);
    for (std::string line; std::getline(in, line);) {
      std::istringstream words(line);
      std::string protocol, inuse;
      int count = 0;
      words >> protocol >> inuse >> count;
      if (protocol.starts_with("TCP") && (inuse != "inuse" || count != 0)) return true;
    }
  }
  return false;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Kernel>> Kernel::Load(const Options& options) {
  std::unique_ptr<Kernel> kernel(new Kernel);
  kernel->bpffs_ = options.bpffs;
  // Before 5.11 maps count as locked memory; later the limit does not matter, so failure to lift it does not either.
  rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
  setrlimit(RLIMIT_MEMLOCK, &unlimited);
  HK_RETURN_IF_ERROR(bpf::EnsureBpffs(options.bpffs));
  kernel->features_.cgroup2 = options.cgroup2;
  if (options.cgroup2.empty()) {
    std::string fallback = std::filesystem::path(options.bpffs).parent_path() / "cgroup2";
    HK_ASSIGN_OR_RETURN(kernel->features_.cgroup2, bpf::EnsureCgroup2(fallback));
  }
  HK_RETURN_IF_ERROR(kernel->Probe());
  HK_RETURN_IF_ERROR(kernel->LoadOrRecreate());
  HK_RETURN_IF_ERROR(kernel->AttachAll());
  return kernel;
}

absl::Status Kernel::Probe() {
  features_.sk_lookup = bpf::CanLoad(BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP);
  features_.name_hooks = bpf::CanLoad(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_GETPEERNAME);
  features_.ring_buffer = bpf::HasMap(BPF_MAP_TYPE_RINGBUF);
  features_.sockops_listen = bpf::HasHelper(BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS, BPF_FUNC_get_netns_cookie);
  features_.bind_retval = bpf::HasHelper(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_BIND, BPF_FUNC_set_retval);
  post_bind_retval_ = bpf::HasHelper(BPF_PROG_TYPE_CGROUP_SOCK, BPF_CGROUP_INET4_POST_BIND, BPF_FUNC_set_retval);
  std::string missing;
  auto need = [&](bool there, const char* what) {
    if (!there) missing += (missing.empty() ? "" : ", ") + std::string(what);
  };
  need(features_.sk_lookup, "sk_lookup programs (kernel >= 5.9, CONFIG_BPF_SYSCALL)");
  need(features_.name_hooks, "cgroup/getpeername (kernel >= 5.8, CONFIG_CGROUP_BPF)");
  need(features_.ring_buffer, "BPF ring buffer (kernel >= 5.8)");
  need(features_.sockops_listen, "bpf_get_netns_cookie in sockops (kernel >= 5.15)");
  need(bpf::HasKernelBtf(), "/sys/kernel/btf/vmlinux (CONFIG_DEBUG_INFO_BTF)");
  if (!missing.empty()) return absl::UnimplementedError(fmt::format("this kernel lacks {}", missing));
  return absl::OkStatus();
}

absl::Status Kernel::LoadOrRecreate() {
  auto load = [&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(object_, bpf::OpenObject(Embedded(), "heterok8s_ports"));
    bpf_map* constants = bpf_object__find_map_by_name(object_.get(), ".rodata");
    const Constants values{.have_set_retval = features_.bind_retval, .have_post_bind_retval = post_bind_retval_};
    if (constants == nullptr || bpf_map__set_initial_value(constants, &values, sizeof values) != 0) {
      return absl::InternalError("the embedded BPF object's constants are not the ones expected");
    }
    return bpf::LoadObject(object_.get(), bpffs_ + "/maps");
  };
  std::optional<hk_meta> former = PinnedMeta(bpffs_);
  absl::Status loaded = absl::FailedPreconditionError("another layout");
  if (former.has_value() && former->layout == HK_PORTS_LAYOUT) {
    loaded = load();
    if (!absl::IsFailedPrecondition(loaded)) return loaded;
  }
  // Nothing there, half made, or made by a heterod with other maps. The Pods' sockets are found again by AddPod.
  if (former.has_value()) spdlog::warn("ports: BPF maps of another layout in '{}': making new ones", bpffs_);
  HK_RETURN_IF_ERROR(RemoveAllPins(bpffs_));
  return load();
}

absl::Status Kernel::AttachAll() {
  auto map = [&](const char* name) { return bpf_object__find_map_by_name(object_.get(), name); };
  pods = bpf::Map<uint64_t, hk_pod>(map("pods"));
  pod_names = bpf::Map<uint64_t, hk_pod_name>(map("pod_names"));
  links = bpf::Map<hk_addr, hk_link>(map("links"));
  local = bpf::Map<hk_claim_key, hk_local>(map("local"));
  remote = bpf::Map<hk_port_key, hk_remote>(map("remote"));
  shares = bpf::Map<uint64_t, hk_share>(map("shares"));
  burst = bpf::Map<uint32_t, int32_t>(map("burst"));
  callers = bpf::Map<hk_callers_key, hk_callers>(map("callers"));
  stats_fd_ = bpf_map__fd(map("stats"));
  order_fd_ = bpf_program__fd(Program("hk_order"));
  bpf::Map<uint32_t, hk_meta> meta(map("meta"));

  hk_meta now{.layout = HK_PORTS_LAYOUT, .object_hash = bpf::HashBytes(Embedded())};
  std::optional<hk_meta> former = meta.Get(kMetaKey);
  bool replace = !former.has_value() || former->object_hash != now.object_hash;

  sys::UniqueFd cgroup(open(features_.cgroup2.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup.valid()) return ErrnoToStatus(errno, fmt::format("open cgroup '{}'", features_.cgroup2));
  std::set<std::string> wanted;
  bpf_program* program = nullptr;
  bpf_object__for_each_program(program, object_.get()) {
    if (!IsCgroupProgram(program)) continue;
    wanted.insert(bpf_program__name(program));
    std::string pin = fmt::format("{}/links/{}", bpffs_, bpf_program__name(program));
    HK_RETURN_IF_ERROR(bpf::AttachCgroup(program, cgroup.get(), pin, replace));
  }
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(bpffs_ + "/links", error)) {
    if (!wanted.contains(entry.path().filename())) HK_RETURN_IF_ERROR(bpf::Unpin(entry.path()));
  }
  if (replace) {
    for (const auto& entry : std::filesystem::directory_iterator(bpffs_ + "/pods", error)) {
      absl::Status replaced = bpf::ReplaceProgram(Program("hk_lookup"), entry.path());
      // The namespace is gone and its link attached to nothing; RemovePod takes the pin away.
      if (!replaced.ok()) spdlog::warn("ports: {}; keeping it", Message(replaced));
    }
  }
  HK_RETURN_IF_ERROR(meta.Put(kMetaKey, now));

  bpf::LogCapture log;
  scan_tcp_.reset(bpf_program__attach_iter(Program("hk_scan_tcp"), nullptr));
  scan_udp_.reset(bpf_program__attach_iter(Program("hk_scan_udp"), nullptr));
  if (scan_tcp_ == nullptr || scan_udp_ == nullptr) return log.Error(errno, "attach socket iterators");
  return absl::OkStatus();
}

const bpf_program* Kernel::Program(const char* name) const {
  return bpf_object__find_program_by_name(object_.get(), name);
}

std::string Kernel::PodPin(uint64_t cookie) const { return fmt::format("{}/pods/{:x}", bpffs_, cookie); }

absl::Status Kernel::AttachPod(uint64_t cookie, int netns_fd) const {
  return bpf::AttachNetns(Program("hk_lookup"), netns_fd, PodPin(cookie), /*replace=*/false);
}

absl::Status Kernel::DetachPod(uint64_t cookie) const { return bpf::Unpin(PodPin(cookie)); }

absl::Status Kernel::ScanTcp() const { return HasTcpSockets() ? Scan(scan_tcp_.get()) : absl::OkStatus(); }

absl::Status Kernel::ScanUdp() const { return Scan(scan_udp_.get()); }

absl::Status Kernel::Scan(const bpf_link* iterator) const {
  sys::UniqueFd fd(bpf_iter_create(bpf_link__fd(iterator)));
  if (!fd.valid()) return ErrnoToStatus(errno, "start socket iterator");
  char nothing[256];
  for (;;) {
    ssize_t n = read(fd.get(), nothing, sizeof nothing);  // the program prints nothing; reading makes it run
    if (n == 0) return absl::OkStatus();
    if (n < 0 && errno != EAGAIN && errno != EINTR) return ErrnoToStatus(errno, "read socket iterator");
  }
}

uint64_t Kernel::Stat(hk_stat which) const {
  std::vector<uint64_t> per_cpu(libbpf_num_possible_cpus());
  uint32_t key = which;
  uint64_t sum = 0;
  if (bpf_map_lookup_elem(stats_fd_, &key, per_cpu.data()) != 0) return 0;
  for (uint64_t n : per_cpu) sum += n;
  return sum;
}

bool Kernel::HasRoom(const hk_share& share) const {
  if (share.used < HK_SHARE_GUARANTEED) return true;
  return share.used < HK_SHARE_MOST && burst.Get(0).value_or(HK_BURST_ENTRIES) < HK_BURST_ENTRIES;
}

absl::StatusOr<bool> Kernel::Order(hk_order_kind kind, const hk_claim_key& key) const {
  const hk_order order{.key = key, .kind = kind};
  char packet[HK_ORDER_OFFSET + sizeof order] = {};
  std::memcpy(packet + HK_ORDER_OFFSET, &order, sizeof order);
  LIBBPF_OPTS(bpf_test_run_opts, run, .data_in = packet, .data_size_in = sizeof packet);
  if (bpf_prog_test_run_opts(order_fd_, &run) != 0) return ErrnoToStatus(errno, "run BPF program 'hk_order'");
  return run.retval != 0;
}

absl::Status Kernel::OpenRing(Handler handler) {
  handler_ = std::move(handler);
  bpf::LogCapture log;
  auto on_event = [](void* self, void* data, size_t size) {
    if (size >= sizeof(hk_event)) static_cast<Kernel*>(self)->handler_(*static_cast<const hk_event*>(data));
    return 0;
  };
  int fd = bpf_object__find_map_fd_by_name(object_.get(), "events");
  ring_.reset(ring_buffer__new(fd, on_event, this, nullptr));
  if (ring_ == nullptr) return log.Error(errno, "open ring buffer");
  return absl::OkStatus();
}

int Kernel::ring_epoll_fd() const { return ring_buffer__epoll_fd(ring_.get()); }

void Kernel::DrainRing() { ring_buffer__consume(ring_.get()); }

}  // namespace heterok8s::ports
