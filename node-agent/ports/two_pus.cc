#include "node-agent/ports/two_pus.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/socket.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "common/sys/process.h"
#include "common/testing/matchers.h"
#include "node-agent/ports/placeholder_mechanism.h"

namespace heterok8s::ports {
namespace {

const char kPod4[] = "10.200.0.5", kPod6[] = "fd00:200::5";
constexpr podnet::PortRange kHostPorts{32768, 47103}, kDpuPorts{47104, 60999};

podnet::LinkAddresses Link() {
  auto v4 = [](int last) { return IpAddress::V4(0xa9fe4000 + last); };
  return {.host_localhost = v4(4), .dpu_localhost = v4(5), .host_pod = v4(6), .dpu_pod = v4(7)};
}

void Sh(const std::string& command) {
  auto result = sys::Run({.argv = {"/bin/sh", "-ec", command}});
  REQUIRE_OK(result);
  INFO(command << "\n" << result->stderr_text);
  REQUIRE(result->exit_code == 0);
}

sys::NetnsRef MakeNetns(const std::string& name) {
  auto made = sys::CreateNetns("/run/netns/" + name);
  REQUIRE_OK(made);
  return *std::move(made);
}

std::string Unique() {
  static std::atomic<int> next = 0;
  return fmt::format("hkp{}-{}", getpid(), next++);
}

void Wire(const Pu& pu, bool host) {
  std::string script =
      fmt::format("ip -n {0} addr add {1}/32 dev lo\nip -n {0} addr add {2}/128 dev lo nodad\n", pu.name, kPod4, kPod6);
  podnet::LinkAddresses link = Link();
  std::pair<IpAddress, IpAddress> pairs[] = {{link.host_localhost, link.dpu_localhost}, {link.host_pod, link.dpu_pod}};
  script += fmt::format(
      "ip netns exec {} sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.xpu0.rp_filter=0 "
      "net.ipv4.conf.xpu0.accept_local=1 net.ipv4.conf.xpu0.route_localnet=1 net.ipv4.ip_local_port_range='{} {}'\n",
      pu.name, host ? kHostPorts.first : kDpuPorts.first, host ? kHostPorts.last : kDpuPorts.last);
  script += fmt::format("ip -n {0} link set xpu0 address 02:00:00:00:00:0{1} up\n", pu.name, host ? 1 : 2);
  std::string neighbour = fmt::format("lladdr 02:00:00:00:00:0{} dev xpu0 nud permanent", host ? 2 : 1);
  std::string nft, bound;
  // As podnet: what a socket bound to localhost sends is called otherwise on the link.
  for (int v6 = 0; v6 < 2; ++v6) {
    auto text = [&](const IpAddress& v4) { return (v6 ? podnet::LinkAddresses::ToV6(v4) : v4).ToString(); };
    std::string name = podnet::LinkAddresses::Localhost(v6 ? Family::kV6 : Family::kV4).ToString();
    std::string own = text(host ? link.host_localhost : link.dpu_localhost);
    std::string peers = fmt::format("{{ {}, {} }}", text(host ? link.dpu_localhost : link.host_localhost),
                                    text(host ? link.dpu_pod : link.host_pod));
    bound += fmt::format("ip -n {0} route add {1} dev xpu0 src {2}\nip -n {0} neigh replace {1} {3}\n", pu.name, name,
                         own, neighbour);
    const char *ip = v6 ? "ip6" : "ip", *localhost = v6 ? "::1" : "127.0.0.1";
    nft += fmt::format("add rule inet t raw_out oifname xpu0 {0} saddr {1} {0} daddr {2} {0} saddr set {3} notrack;",
                       ip, localhost, peers, name);
    nft += fmt::format("add rule inet t raw_in iifname xpu0 {0} saddr {1} {0} daddr {2} {0} daddr set {3} notrack;", ip,
                       peers, name, localhost);
  }
  bound += fmt::format("ip -n {} -6 route add local ::1 dev xpu0 table local metric 4096\n", pu.name);
  for (auto [h, d] : pairs) {
    for (int v6 = 0; v6 < 2; ++v6) {
      IpAddress own = host ? h : d, peer = host ? d : h;
      if (v6) own = podnet::LinkAddresses::ToV6(own), peer = podnet::LinkAddresses::ToV6(peer);
      script += fmt::format(
          "ip -n {0} addr add {1}/{2} dev xpu0 {3}\nip -n {0} route add {4}/{2} dev xpu0 src {1}\n"
          "ip -n {0} neigh replace {4} {5}\n",
          pu.name, own.ToString(), own.bits(), v6 ? "nodad" : "", peer.ToString(), neighbour);
      nft += fmt::format("add rule inet t o {0} saddr {1} {0} daddr {2} meta mark set 0x10;", v6 ? "ip6" : "ip",
                         own.ToString(), v6 ? kPod6 : kPod4);
    }
  }
  // As podnet: the answer to a call from the other side's Pod IP leaves by the link.
  for (const char* f : {"-4", "-6"}) {
    std::string pod = f[1] == '4' ? kPod4 : kPod6;
    script += fmt::format(
        "ip -n {0} {1} rule add pref 100 lookup local\nip -n {0} {1} rule del pref 0\n"
        "ip -n {0} {1} rule add pref 10 fwmark 0x10 lookup 10\nip -n {0} {1} route add {2} dev xpu0 table 10\n"
        "ip -n {0} neigh replace {2} {3}\n",
        pu.name, f, pod, neighbour);
  }
  script += bound;
  script += fmt::format(
      "ip netns exec {} nft 'add table inet t; add chain inet t o {{ type route hook output priority -150; }}; "
      "add chain inet t raw_out {{ type filter hook output priority raw; }}; "
      "add chain inet t raw_in {{ type filter hook prerouting priority raw; }}; {}'\n",
      pu.name, nft);
  Sh(script);
}

struct Name {
  sockaddr_storage storage{};
  socklen_t length = sizeof storage;
  sockaddr* raw() { return reinterpret_cast<sockaddr*>(&storage); }
  IpAddress address() const {
    IpAddress a;
    if (storage.ss_family == AF_INET) {
      std::memcpy(a.bytes.data(), &reinterpret_cast<const sockaddr_in&>(storage).sin_addr, 4);
    } else {
      a.family = Family::kV6;
      std::memcpy(a.bytes.data(), &reinterpret_cast<const sockaddr_in6&>(storage).sin6_addr, 16);
    }
    return a;
  }
  uint16_t port() const { return ntohs(reinterpret_cast<const sockaddr_in&>(storage).sin_port); }
};

Name ToName(const IpAddress& address, uint16_t port) {
  Name name;
  if (address.family == Family::kV4) {
    auto& in = reinterpret_cast<sockaddr_in&>(name.storage);
    in.sin_family = AF_INET;
    in.sin_port = htons(port);
    std::memcpy(&in.sin_addr, address.bytes.data(), 4);
    name.length = sizeof in;
  } else {
    auto& in6 = reinterpret_cast<sockaddr_in6&>(name.storage);
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(port);
    std::memcpy(&in6.sin6_addr, address.bytes.data(), 16);
    name.length = sizeof in6;
  }
  return name;
}

bool Readable(int fd, int ms) {
  pollfd p{.fd = fd, .events = POLLIN};
  return poll(&p, 1, ms) == 1;
}

}  // namespace

Pu::Pu(const std::string& unique, pu::Side which)
    : name(unique + (which == pu::Side::kHost ? "h" : "d")),
      pod_key("pod-" + unique),
      side(which),
      ns(MakeNetns(name)) {}

Pu::~Pu() {
  ports.reset();
  umount2(options().bpffs.c_str(), MNT_DETACH);  // the pins go with it
  std::error_code error;
  std::filesystem::remove_all("/run/" + name, error);
  (void)sys::DeleteNetns(ns.path());
}

Options Pu::options() const { return {.instance = name, .bpffs = fmt::format("/run/{}/bpf", name)}; }

PodPorts Pu::Pod() const {
  bool host = side == pu::Side::kHost;
  return {.pod_key = pod_key,
          .side = side,
          .netns_path = ns.path(),
          .addresses = {*IpAddress::Parse(kPod4), *IpAddress::Parse(kPod6)},
          .link = Link(),
          .own_ephemeral = host ? kHostPorts : kDpuPorts,
          .other_ephemeral = host ? kDpuPorts : kHostPorts};
}

absl::Status Pu::StartHeterod(std::function<void(const PortChange&)> tell) {
  HK_ASSIGN_OR_RETURN(ports, NewPorts(mechanism, options(), std::move(tell)));
  return ports->AddPod(Pod());
}

sys::UniqueFd Pu::Socket(int family, int type) const {
  sys::UniqueFd fd;
  REQUIRE_OK(sys::InNetns(ns, [&]() -> absl::Status {
    fd.reset(socket(family, type | SOCK_CLOEXEC, 0));
    return fd.valid() ? absl::OkStatus() : ErrnoToStatus(errno, "socket");
  }));
  timeval limit{.tv_sec = 3};
  setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);  // connect() too
  return fd;
}

TwoPus::TwoPus(bool start, Mechanism mechanism)
    : host_(Unique(), pu::Side::kHost), dpu_(host_.name.substr(0, host_.name.size() - 1), pu::Side::kDpu) {
  Sh(fmt::format("ip link add xpu0 netns {} type veth peer name xpu0 netns {}", host_.name, dpu_.name));
  Wire(host_, true);
  Wire(dpu_, false);
  // The end that came up first sends nothing until the kernel's link watch has run.
  Sh(fmt::format(
      "for i in $(seq 3000); do ip -n {} -o link show xpu0 | grep -q 'state UP' && exit; sleep 0.01; done; exit 1",
      host_.name));
  host_.mechanism = dpu_.mechanism = mechanism;
  if (start) {
    Start(host_);
    Start(dpu_);
  }
}

void TwoPus::Start(Pu& pu) {
  REQUIRE_OK(pu.StartHeterod([this, &pu](const PortChange& change) { Tell(pu, change); }));
}

void TwoPus::Tell(const Pu& owner, const PortChange& change) {
  Pu& other = Other(owner);
  if (other.ports != nullptr) (void)other.ports->SetRemote(other.pod_key, change.key, change.opened, change.epoch_ns);
  std::lock_guard lock(mutex_);
  told_[&owner].reports.push_back(change);
  told_[&owner].open[change.key] = change.opened;
  changed_.notify_all();
}

void TwoPus::AwaitTold(const Pu& owner, const PortKey& key, bool open) {
  std::unique_lock lock(mutex_);
  bool told = changed_.wait_for(lock, std::chrono::milliseconds(kPatienceMs), [&] {
    auto found = told_[&owner].open.find(key);
    return found == told_[&owner].open.end() ? !open : found->second == open;
  });
  INFO("waiting for " << key.ToString() << (open ? " to open" : " to close"));
  REQUIRE(told);
}

std::vector<PortChange> TwoPus::Reports(const Pu& owner) {
  std::lock_guard lock(mutex_);
  return told_[&owner].reports;
}

void TwoPus::AwaitReports(const Pu& owner, size_t count) {
  std::unique_lock lock(mutex_);
  REQUIRE(changed_.wait_for(lock, std::chrono::milliseconds(kPatienceMs),
                            [&] { return told_[&owner].reports.size() >= count; }));
}

IpAddress AddressOf(Where where, int family) {
  bool v4 = family == AF_INET;
  switch (where) {
    case Where::kAny:
      return *IpAddress::Parse(v4 ? "0.0.0.0" : "::");
    case Where::kLocalhost:
      return *IpAddress::Parse(v4 ? "127.0.0.1" : "::1");
    case Where::kPodIp:
      return *IpAddress::Parse(v4 ? kPod4 : kPod6);
  }
  return {};
}

sys::UniqueFd Server(TwoPus& pus, Pu& pu, int family, int type, const IpAddress& address, bool dual, PortKey* key) {
  sys::UniqueFd fd = pu.Socket(family, type);
  int only = dual ? 0 : 1;
  if (family == AF_INET6) setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only);
  REQUIRE(Bind(fd, address, 0) == 0);
  if (type == SOCK_STREAM) REQUIRE(listen(fd.get(), 16) == 0);
  *key = {.protocol = type == SOCK_STREAM ? Protocol::kTcp : Protocol::kUdp,
          .address = address,
          .port = PortOf(fd),
          .dual_stack = dual};
  pus.AwaitTold(pu, *key, true);
  return fd;
}

int Bind(const sys::UniqueFd& fd, const IpAddress& address, uint16_t port) {
  Name name = ToName(address, port);
  return bind(fd.get(), name.raw(), name.length) == 0 ? 0 : -errno;
}

int Connect(const sys::UniqueFd& fd, const IpAddress& address, uint16_t port) {
  Name name = ToName(address, port);
  return connect(fd.get(), name.raw(), name.length) == 0 ? 0 : -errno;
}

int SendTo(const sys::UniqueFd& fd, const std::string& text, const IpAddress& address, uint16_t port) {
  Name name = ToName(address, port);
  return sendto(fd.get(), text.data(), text.size(), 0, name.raw(), name.length) < 0 ? -errno : 0;
}

int Call(const sys::UniqueFd& fd, const std::string& text, const IpAddress& address, uint16_t port, bool connected) {
  if (!connected) return SendTo(fd, text, address, port);
  if (int error = Connect(fd, address, port); error != 0) return error;
  return send(fd.get(), text.data(), text.size(), 0) < 0 ? -errno : 0;
}

std::string ReceiveFrom(const sys::UniqueFd& fd, int ms, IpAddress* from, uint16_t* port) {
  if (!Readable(fd.get(), ms)) return "";
  char text[256];
  Name name;
  ssize_t n = recvfrom(fd.get(), text, sizeof text, 0, name.raw(), &name.length);
  if (n < 0) return fmt::format("error {}", strerror(errno));
  std::string received(text, n);
  if (name.length == 0) return received;  // a TCP socket has no sender to tell
  if (from != nullptr) *from = name.address();
  if (port != nullptr) *port = name.port();
  return fmt::format("{} from {}", received, name.address().ToString());
}

std::string SockName(const sys::UniqueFd& fd) {
  Name name;
  return getsockname(fd.get(), name.raw(), &name.length) == 0 ? name.address().ToString() : strerror(errno);
}

std::string PeerName(const sys::UniqueFd& fd) {
  Name name;
  return getpeername(fd.get(), name.raw(), &name.length) == 0 ? name.address().ToString() : strerror(errno);
}

uint16_t PortOf(const sys::UniqueFd& fd) {
  Name name;
  return getsockname(fd.get(), name.raw(), &name.length) == 0 ? name.port() : 0;
}

sys::UniqueFd Accept(const sys::UniqueFd& fd, std::string* peer) {
  if (!Readable(fd.get(), kPatienceMs)) return {};
  Name name;
  sys::UniqueFd accepted(accept4(fd.get(), name.raw(), &name.length, SOCK_CLOEXEC));
  if (peer != nullptr) *peer = name.address().ToString();
  return accepted;
}

}  // namespace heterok8s::ports
