#include "node-agent/ports/placeholder_diag.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/filter.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

#include "node-agent/ports/claims.h"

namespace heterok8s::ports {
namespace {

constexpr timeval kPatience{.tv_sec = 2, .tv_usec = 0};

uint32_t Group(int group) { return 1u << (group - 1); }

// Of all sockets that end in the namespace only those without a peer: never one wake-up per connection.
absl::Status AcceptOnlyUnconnected(int fd) {
  constexpr uint32_t kPeerPort = NLMSG_HDRLEN + offsetof(inet_diag_msg, id) + offsetof(inet_diag_sockid, idiag_dport);
  sock_filter code[] = {BPF_STMT(BPF_LD | BPF_H | BPF_ABS, kPeerPort), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 1),
                        BPF_STMT(BPF_RET | BPF_K, 0xffff), BPF_STMT(BPF_RET | BPF_K, 0)};
  sock_fprog program{.len = 4, .filter = code};
  if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0) return absl::OkStatus();
  return ErrnoToStatus(errno, "filter socket events");
}

IpAddress AddressOf(const inet_diag_msg& message) {
  IpAddress address;
  bool v4 = message.idiag_family == AF_INET;
  address.family = v4 ? Family::kV4 : Family::kV6;
  std::memcpy(address.bytes.data(), message.id.idiag_src, v4 ? 4 : 16);
  return address;
}

DiagSocket Parse(nlmsghdr* header, Protocol protocol) {
  auto* message = static_cast<inet_diag_msg*>(NLMSG_DATA(header));
  bool v6only = false;
  int length = static_cast<int>(NLMSG_PAYLOAD(header, sizeof *message));
  for (auto* a = reinterpret_cast<rtattr*>(message + 1); RTA_OK(a, length); a = RTA_NEXT(a, length)) {
    if (a->rta_type == INET_DIAG_SKV6ONLY) v6only = *static_cast<uint8_t*>(RTA_DATA(a)) != 0;
  }
  PortKey key{.protocol = protocol,
              .address = AddressOf(*message),
              .port = ntohs(message->id.idiag_sport),
              .dual_stack = message->idiag_family == AF_INET6 && !v6only};
  return {.key = Normalized(key),
          .cookie = (static_cast<uint64_t>(message->id.idiag_cookie[1]) << 32) | message->id.idiag_cookie[0]};
}

}  // namespace

absl::StatusOr<SocketDiag> SocketDiag::Open() {
  SocketDiag diag;
  diag.dump_.reset(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!diag.dump_.valid() || setsockopt(diag.dump_.get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience) != 0) {
    return ErrnoToStatus(errno, "open NETLINK_SOCK_DIAG");
  }
  diag.gone_.reset(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG));
  sockaddr_nl groups{};
  groups.nl_family = AF_NETLINK;
  groups.nl_groups = Group(SKNLGRP_INET_TCP_DESTROY) | Group(SKNLGRP_INET_UDP_DESTROY) |
                     Group(SKNLGRP_INET6_TCP_DESTROY) | Group(SKNLGRP_INET6_UDP_DESTROY);
  // Without the events the next dump finds out.
  if (!diag.gone_.valid() || !AcceptOnlyUnconnected(diag.gone_.get()).ok() ||
      bind(diag.gone_.get(), reinterpret_cast<sockaddr*>(&groups), sizeof groups) != 0) {
    diag.gone_.reset();
  }
  return diag;
}

void SocketDiag::DrainGone() {
  char buffer[16384];
  while (true) {
    ssize_t got = recv(gone_.get(), buffer, sizeof buffer, 0);
    if (got < 0 && errno != ENOBUFS && errno != EINTR) return;  // ENOBUFS: some were lost, the dump shows their absence
  }
}

absl::StatusOr<std::vector<DiagSocket>> SocketDiag::List(bool tcp, bool udp) {
  std::vector<DiagSocket> sockets;
  for (Protocol protocol : {Protocol::kTcp, Protocol::kUdp}) {
    if (!(protocol == Protocol::kTcp ? tcp : udp)) continue;
    for (int family : {AF_INET, AF_INET6}) HK_RETURN_IF_ERROR(Dump(family, protocol, sockets));
  }
  return sockets;
}

absl::Status SocketDiag::Dump(int family, Protocol protocol, std::vector<DiagSocket>& sockets) {
  struct {
    nlmsghdr header;
    inet_diag_req_v2 request;
  } ask{};
  ask.header = {.nlmsg_len = sizeof ask,
                .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP,
                .nlmsg_seq = ++sequence_,
                .nlmsg_pid = 0};
  ask.request.sdiag_family = static_cast<uint8_t>(family);
  ask.request.sdiag_protocol = static_cast<uint8_t>(protocol);
  ask.request.idiag_states = protocol == Protocol::kTcp ? 1u << TCP_LISTEN : 1u << TCP_CLOSE;
  if (send(dump_.get(), &ask, sizeof ask, 0) < 0) return ErrnoToStatus(errno, "ask for sockets");
  alignas(nlmsghdr) char buffer[32768];
  while (true) {
    ssize_t got = recv(dump_.get(), buffer, sizeof buffer, 0);
    if (got < 0 && errno == EAGAIN) return absl::DeadlineExceededError("the kernel does not list its sockets");
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoToStatus(errno, "list sockets");
    auto left = static_cast<unsigned>(got);
    for (auto* header = reinterpret_cast<nlmsghdr*>(buffer); NLMSG_OK(header, left);
         header = NLMSG_NEXT(header, left)) {
      if (header->nlmsg_seq != sequence_) continue;  // of a dump that was given up
      if (header->nlmsg_type == NLMSG_DONE) return absl::OkStatus();
      if (header->nlmsg_type == NLMSG_ERROR) {
        int error = -static_cast<nlmsgerr*>(NLMSG_DATA(header))->error;
        // A kernel without IPv6 has no such sockets.
        if (error == ENOENT && family == AF_INET6) return absl::OkStatus();
        return ErrnoToStatus(error, "list sockets");
      }
      DiagSocket found = Parse(header, protocol);
      if (found.key.port != 0) sockets.push_back(found);
    }
  }
}

}  // namespace heterok8s::ports
