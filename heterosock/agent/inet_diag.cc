#include "heterosock/agent/inet_diag.h"

#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

namespace heterok8s::heterosock::agent::diag {
namespace {

constexpr timeval kPatience{.tv_sec = 2, .tv_usec = 0};
// Every state in which a socket has a peer: not LISTEN (10), CLOSE (7), TIME_WAIT (6), NEW_SYN_RECV (12).
constexpr uint32_t kConnectedStates = 0xfff & ~(1u << 10 | 1u << 7 | 1u << 6);

IpAddress AddressOf(int family, const __be32* words) {
  IpAddress address;
  address.family = family == AF_INET ? Family::kV4 : Family::kV6;
  std::memcpy(address.bytes.data(), words, address.size());
  return address;
}

Tuple TupleOf(const inet_diag_msg& message) {
  return {.family = message.idiag_family,
          .local = {AddressOf(message.idiag_family, message.id.idiag_src), ntohs(message.id.idiag_sport)},
          .remote = {AddressOf(message.idiag_family, message.id.idiag_dst), ntohs(message.id.idiag_dport)}};
}

uint64_t CookieOf(const inet_diag_msg& message) {
  return (static_cast<uint64_t>(message.id.idiag_cookie[1]) << 32) | message.id.idiag_cookie[0];
}

// Sends one request and reads its answer; nothing when no connection in it has the cookie.
absl::StatusOr<std::optional<Tuple>> Ask(int netlink, const Tuple& hint, uint64_t cookie, bool list) {
  struct {
    nlmsghdr header;
    inet_diag_req_v2 request;
  } ask{};
  static thread_local uint32_t sequence = 0;
  ask.header = {.nlmsg_len = sizeof ask,
                .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                .nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | (list ? NLM_F_DUMP : 0)),
                .nlmsg_seq = ++sequence};
  ask.request.sdiag_family = static_cast<uint8_t>(hint.family);
  ask.request.sdiag_protocol = IPPROTO_TCP;
  ask.request.idiag_states = kConnectedStates;
  // In a dump ports filter and addresses are ignored (inet_diag_dump_icsk).
  ask.request.id.idiag_sport = htons(hint.local.port);
  ask.request.id.idiag_dport = htons(hint.remote.port);
  if (!list) {
    std::memcpy(ask.request.id.idiag_src, hint.local.address.bytes.data(), hint.local.address.size());
    std::memcpy(ask.request.id.idiag_dst, hint.remote.address.bytes.data(), hint.remote.address.size());
    ask.request.id.idiag_cookie[0] = static_cast<uint32_t>(cookie);
    ask.request.id.idiag_cookie[1] = static_cast<uint32_t>(cookie >> 32);
  }
  if (send(netlink, &ask, sizeof ask, 0) < 0) return ErrnoToStatus(errno, "ask inet_diag");
  std::optional<Tuple> found;
  alignas(nlmsghdr) char buffer[32768];
  while (true) {
    const ssize_t got = recv(netlink, buffer, sizeof buffer, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) return absl::DeadlineExceededError("inet_diag does not answer");
    if (got < 0) return ErrnoToStatus(errno, "read from inet_diag");
    auto left = static_cast<unsigned>(got);
    for (auto* header = reinterpret_cast<nlmsghdr*>(buffer); NLMSG_OK(header, left);
         header = NLMSG_NEXT(header, left)) {
      if (header->nlmsg_seq != sequence) continue;  // of a question that was given up
      if (header->nlmsg_type == NLMSG_DONE) return found;
      if (header->nlmsg_type == NLMSG_ERROR) {
        const int error = -static_cast<nlmsgerr*>(NLMSG_DATA(header))->error;
        // ENOENT: no such tuple; ESTALE: the tuple is another socket's.
        if (error == 0 || error == ENOENT || error == ESTALE) return found;
        return ErrnoToStatus(error, "inet_diag");
      }
      auto* message = static_cast<inet_diag_msg*>(NLMSG_DATA(header));
      if (NLMSG_PAYLOAD(header, 0) >= sizeof *message && CookieOf(*message) == cookie) found = TupleOf(*message);
      if (!list) return found;  // an exact answer has no NLMSG_DONE
    }
  }
}

}  // namespace

absl::StatusOr<sys::UniqueFd> Open() {
  sys::UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!fd.valid() || setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience) != 0) {
    return ErrnoToStatus(errno, "open NETLINK_SOCK_DIAG");
  }
  return fd;
}

absl::StatusOr<Tuple> Find(int netlink, const Tuple& hint, uint64_t cookie) {
  for (bool list : {false, true}) {
    absl::StatusOr<std::optional<Tuple>> answer = Ask(netlink, hint, cookie, list);
    HK_RETURN_IF_ERROR(answer.status());
    if (answer->has_value()) return **answer;
  }
  return absl::NotFoundError("inet_diag does not list the socket");
}

Name FromSockaddr(const sockaddr_storage& name) {
  Name result;
  if (name.ss_family == AF_INET) {
    auto& v4 = reinterpret_cast<const sockaddr_in&>(name);
    result.address.family = Family::kV4;
    std::memcpy(result.address.bytes.data(), &v4.sin_addr, 4);
    result.port = ntohs(v4.sin_port);
  } else if (name.ss_family == AF_INET6) {
    auto& v6 = reinterpret_cast<const sockaddr_in6&>(name);
    result.address.family = Family::kV6;
    std::memcpy(result.address.bytes.data(), &v6.sin6_addr, 16);
    result.port = ntohs(v6.sin6_port);
  }
  return result;
}

IpAddress Unmapped(const IpAddress& address) {
  constexpr uint8_t kPrefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  if (address.family != Family::kV6 || !std::equal(kPrefix, kPrefix + 12, address.bytes.begin())) return address;
  IpAddress v4;
  v4.family = Family::kV4;
  std::copy_n(address.bytes.begin() + 12, 4, v4.bytes.begin());
  return v4;
}

}  // namespace heterok8s::heterosock::agent::diag
