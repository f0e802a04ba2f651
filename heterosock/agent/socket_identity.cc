#include "heterosock/agent/socket_identity.h"

#include <fmt/format.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "heterosock/agent/inet_diag.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71  // asm-generic/socket.h, kernel 5.14
#endif

namespace heterok8s::heterosock::agent {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kKeepNamespace{1};
constexpr size_t kMaxNamespaces = 256;

template <typename T>
absl::StatusOr<T> Option(int fd, int option, const char* name) {
  T value{};
  socklen_t length = sizeof value;
  if (getsockopt(fd, SOL_SOCKET, option, &value, &length) != 0) {
    return errno == ENOTSOCK ? absl::InvalidArgumentError("not a socket") : ErrnoToStatus(errno, name);
  }
  return value;
}

absl::StatusOr<Traffic> ReadTraffic(int fd) {
  tcp_info info{};
  socklen_t length = sizeof info;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return ErrnoToStatus(errno, "TCP_INFO");
  // CLOSE_WAIT and FIN_WAIT still carry one direction; the others carry none or not yet.
  constexpr uint8_t kEstablished = 1, kFinWait1 = 4, kFinWait2 = 5, kCloseWait = 8;  // include/net/tcp_states.h
  if (info.tcpi_state != kEstablished && info.tcpi_state != kFinWait1 && info.tcpi_state != kFinWait2 &&
      info.tcpi_state != kCloseWait) {
    return absl::InvalidArgumentError(fmt::format("TCP state {}", info.tcpi_state));
  }
  return Traffic{.bytes_acked = info.tcpi_bytes_acked,
                 .bytes_sent = info.tcpi_bytes_sent,
                 .bytes_received = info.tcpi_bytes_received,
                 .send_scale = info.tcpi_snd_wscale,
                 .receive_scale = info.tcpi_rcv_wscale};
}

// The names the socket gives itself: a hint where inet_diag should look, nothing more.
absl::StatusOr<diag::Tuple> Hint(int fd) {
  sockaddr_storage names[2] = {};
  for (int i = 0; i < 2; ++i) {
    socklen_t length = sizeof names[i];
    int failed = i == 0 ? getsockname(fd, reinterpret_cast<sockaddr*>(&names[i]), &length)
                        : getpeername(fd, reinterpret_cast<sockaddr*>(&names[i]), &length);
    if (failed != 0) return absl::InvalidArgumentError("not connected");
  }
  return diag::Tuple{
      .family = names[0].ss_family, .local = diag::FromSockaddr(names[0]), .remote = diag::FromSockaddr(names[1])};
}

uint64_t OwnNetnsCookie() {
  sys::UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  return fd.valid() ? Option<uint64_t>(fd.get(), SO_NETNS_COOKIE, "SO_NETNS_COOKIE").value_or(0) : 0;
}

}  // namespace

std::string Endpoint::ToString() const {
  return address.family == Family::kV4 ? fmt::format("{}:{}", address.ToString(), port)
                                       : fmt::format("[{}]:{}", address.ToString(), port);
}

absl::StatusOr<SocketIdentity> SocketInspector::Inspect(int fd) {
  HK_ASSIGN_OR_RETURN(int family, Option<int>(fd, SO_DOMAIN, "SO_DOMAIN"));
  HK_ASSIGN_OR_RETURN(int protocol, Option<int>(fd, SO_PROTOCOL, "SO_PROTOCOL"));
  if ((family != AF_INET && family != AF_INET6) || protocol != IPPROTO_TCP) {
    return absl::InvalidArgumentError("not TCP over IPv4 or IPv6");
  }
  SocketIdentity identity;
  HK_ASSIGN_OR_RETURN(identity.traffic, ReadTraffic(fd));
  HK_ASSIGN_OR_RETURN(identity.cookie, Option<uint64_t>(fd, SO_COOKIE, "SO_COOKIE"));
  HK_ASSIGN_OR_RETURN(identity.netns_cookie, Option<uint64_t>(fd, SO_NETNS_COOKIE, "SO_NETNS_COOKIE"));
  struct stat st {};
  if (fstat(fd, &st) != 0) return ErrnoToStatus(errno, "stat a socket");
  identity.inode = st.st_ino;
  HK_ASSIGN_OR_RETURN(diag::Tuple hint, Hint(fd));
  HK_ASSIGN_OR_RETURN(int netlink, NetlinkFor(identity.netns_cookie, fd));
  HK_ASSIGN_OR_RETURN(diag::Tuple tuple, diag::Find(netlink, hint, identity.cookie));
  identity.local = {diag::Unmapped(tuple.local.address), tuple.local.port};
  identity.remote = {diag::Unmapped(tuple.remote.address), tuple.remote.port};
  return identity;
}

absl::StatusOr<int> SocketInspector::NetlinkFor(uint64_t netns_cookie, int fd) {
  if (auto found = namespaces_.find(netns_cookie); found != namespaces_.end()) {
    found->second.used = Clock::now();
    return found->second.netlink.get();
  }
  Tidy();
  if (namespaces_.size() >= kMaxNamespaces) namespaces_.clear();
  if (netns_cookie == OwnNetnsCookie()) {  // needs no privilege
    HK_ASSIGN_OR_RETURN(sys::UniqueFd netlink, diag::Open());
    Namespace& entry = namespaces_[netns_cookie];
    entry = {std::move(netlink), Clock::now()};
    return entry.netlink.get();
  }
  sys::UniqueFd netns(ioctl(fd, SIOCGSKNS));
  if (!netns.valid()) return ErrnoToStatus(errno, "find the socket's network namespace (SIOCGSKNS)");
  absl::StatusOr<sys::UniqueFd> opened = absl::InternalError("not run");
  std::thread worker([&] {
    if (setns(netns.get(), CLONE_NEWNET) != 0) {
      opened = ErrnoToStatus(errno, "enter the socket's network namespace");
      return;
    }
    opened = diag::Open();
  });
  worker.join();
  HK_RETURN_IF_ERROR(opened.status());
  Namespace& entry = namespaces_[netns_cookie];
  entry = {std::move(*opened), Clock::now()};
  return entry.netlink.get();
}

void SocketInspector::Tidy() {
  const Clock::time_point oldest = Clock::now() - kKeepNamespace;
  std::erase_if(namespaces_, [&](const auto& entry) { return entry.second.used < oldest; });
}

}  // namespace heterok8s::heterosock::agent
