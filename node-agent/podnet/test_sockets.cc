#include "node-agent/podnet/test_sockets.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>
#include <cstring>

#include "common/testing/matchers.h"

namespace heterok8s::podnet {
namespace {

struct Raw {
  sockaddr_storage storage{};
  socklen_t size = sizeof(sockaddr_storage);
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

Raw ToRaw(const Endpoint& endpoint) {
  Raw raw;
  if (endpoint.address.family == Family::kV4) {
    auto* in = reinterpret_cast<sockaddr_in*>(&raw.storage);
    in->sin_family = AF_INET;
    in->sin_port = htons(endpoint.port);
    std::memcpy(&in->sin_addr, endpoint.address.bytes.data(), 4);
    raw.size = sizeof *in;
  } else {
    auto* in6 = reinterpret_cast<sockaddr_in6*>(&raw.storage);
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(endpoint.port);
    std::memcpy(&in6->sin6_addr, endpoint.address.bytes.data(), 16);
    raw.size = sizeof *in6;
  }
  return raw;
}

Endpoint FromRaw(const Raw& raw) {
  Endpoint endpoint;
  if (raw.storage.ss_family == AF_INET) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(&raw.storage);
    endpoint.port = ntohs(in->sin_port);
    std::memcpy(endpoint.address.bytes.data(), &in->sin_addr, 4);
  } else {
    const auto* in6 = reinterpret_cast<const sockaddr_in6*>(&raw.storage);
    endpoint.address.family = Family::kV6;
    endpoint.port = ntohs(in6->sin6_port);
    std::memcpy(endpoint.address.bytes.data(), &in6->sin6_addr, 16);
  }
  return endpoint;
}

sys::UniqueFd Open(const sys::NetnsRef& ns, int family, int type) {
  sys::UniqueFd fd;
  REQUIRE_OK(sys::InNetns(ns, [&] {
    fd.reset(socket(family, type | SOCK_CLOEXEC, 0));
    return fd.valid() ? absl::OkStatus() : ErrnoToStatus(errno, "socket");
  }));
  return fd;
}

int FamilyOf(const Endpoint& endpoint) { return endpoint.address.family == Family::kV4 ? AF_INET : AF_INET6; }

bool Wait(int fd, short events, std::chrono::milliseconds patience) {
  pollfd poll_fd{.fd = fd, .events = events};
  return poll(&poll_fd, 1, static_cast<int>(patience.count())) == 1;
}

}  // namespace

Endpoint At(const char* address, uint16_t port) { return {*IpAddress::Parse(address), port}; }

sys::UniqueFd Listen(const sys::NetnsRef& ns, Protocol protocol, const Endpoint& at) {
  sys::UniqueFd fd = Open(ns, FamilyOf(at), protocol == Protocol::kTcp ? SOCK_STREAM : SOCK_DGRAM);
  int one = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  Raw raw = ToRaw(at);
  INFO(at.ToString());
  REQUIRE(bind(fd.get(), raw.get(), raw.size) == 0);
  if (protocol == Protocol::kTcp) REQUIRE(listen(fd.get(), 16) == 0);
  return fd;
}

uint16_t LocalPort(const sys::UniqueFd& socket) {
  Raw raw;
  REQUIRE(getsockname(socket.get(), raw.get(), &raw.size) == 0);
  return FromRaw(raw).port;
}

Endpoint PeerOf(const sys::UniqueFd& socket) {
  Raw raw;
  REQUIRE(getpeername(socket.get(), raw.get(), &raw.size) == 0);
  return FromRaw(raw);
}

int Connect(const sys::NetnsRef& ns, const Endpoint& to, sys::UniqueFd* out, std::chrono::milliseconds patience,
            const std::optional<Endpoint>& from) {
  sys::UniqueFd fd = Open(ns, FamilyOf(to), SOCK_STREAM | SOCK_NONBLOCK);
  if (from) {
    Raw raw = ToRaw(*from);
    REQUIRE(bind(fd.get(), raw.get(), raw.size) == 0);
  }
  Raw raw = ToRaw(to);
  int error = 0;
  if (connect(fd.get(), raw.get(), raw.size) != 0) {
    error = errno;
    if (error == EINPROGRESS) {
      if (!Wait(fd.get(), POLLOUT, patience)) return ETIMEDOUT;
      socklen_t size = sizeof error;
      getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    }
  }
  if (error == 0 && out != nullptr) *out = std::move(fd);
  return error;
}

sys::UniqueFd ConnectUdp(const sys::NetnsRef& ns, const Endpoint& to, const std::optional<Endpoint>& from) {
  sys::UniqueFd fd = Open(ns, FamilyOf(to), SOCK_DGRAM);
  if (from) {
    Raw raw = ToRaw(*from);
    REQUIRE(bind(fd.get(), raw.get(), raw.size) == 0);
  }
  Raw raw = ToRaw(to);
  REQUIRE(connect(fd.get(), raw.get(), raw.size) == 0);
  return fd;
}

sys::UniqueFd Accept(const sys::UniqueFd& listener) {
  if (!Wait(listener.get(), POLLIN, kPatience)) return {};
  return sys::UniqueFd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
}

bool Send(const sys::UniqueFd& socket, const std::string& text) {
  return send(socket.get(), text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
}

bool SendAll(const sys::UniqueFd& socket, const std::string& text) {
  int buffer = static_cast<int>(2 * text.size());
  setsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
  size_t sent = 0;
  while (sent < text.size()) {
    if (!Wait(socket.get(), POLLOUT, kPatience)) return false;
    ssize_t n = send(socket.get(), text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (n < 0) return false;
    sent += static_cast<size_t>(n);
  }
  return true;
}

std::string ReceiveAll(const sys::UniqueFd& socket, size_t bytes) {
  std::string text;
  while (text.size() < bytes) {
    std::string part = Receive(socket);
    if (part.empty() || part == "nothing") break;
    text += part;
  }
  return text;
}

bool SendTo(const sys::UniqueFd& socket, const Endpoint& to, const std::string& text) {
  Raw raw = ToRaw(to);
  return sendto(socket.get(), text.data(), text.size(), 0, raw.get(), raw.size) == static_cast<ssize_t>(text.size());
}

std::string Receive(const sys::UniqueFd& socket, Endpoint* from) {
  if (!Wait(socket.get(), POLLIN, kPatience)) return "nothing";
  char buffer[4096];
  Raw raw;
  ssize_t n = recvfrom(socket.get(), buffer, sizeof buffer, 0, raw.get(), &raw.size);
  if (n < 0) return fmt::format("error {}", errno);
  if (from != nullptr) *from = FromRaw(raw);
  return std::string(buffer, static_cast<size_t>(n));
}

std::string MacOf(const sys::NetnsRef& ns, const std::string& ifname) {
  ifreq request{};
  std::strncpy(request.ifr_name, ifname.c_str(), sizeof request.ifr_name - 1);
  sys::UniqueFd fd = Open(ns, AF_INET, SOCK_DGRAM);
  REQUIRE(ioctl(fd.get(), SIOCGIFHWADDR, &request) == 0);
  return std::string(request.ifr_hwaddr.sa_data, 6);
}

void SendForged(const sys::NetnsRef& ns, const std::string& ifname, const std::string& to_mac, const IpAddress& source,
                const IpAddress& destination) {
  bool v4 = source.family == Family::kV4;
  auto bytes = [](const IpAddress& a) { return std::string(reinterpret_cast<const char*>(a.bytes.data()), a.size()); };
  auto checksum = [](const std::string& data) {
    uint32_t sum = 0;
    for (size_t i = 0; i < data.size(); i += 2)
      sum += static_cast<uint8_t>(data[i]) << 8 | static_cast<uint8_t>(data[i + 1]);
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return std::string{static_cast<char>(~sum >> 8), static_cast<char>(~sum)};
  };
  std::string udp("\x03\xe8\x07\xd0\0\x0c\0\0fake", 12);
  std::string pseudo = bytes(source) + bytes(destination) +
                       (v4 ? std::string("\0\x11\0\x0c", 4) : std::string("\0\0\0\x0c\0\0\0\x11", 8));
  udp.replace(6, 2, checksum(pseudo + udp));
  std::string header;
  if (v4) {
    header = std::string("\x45\0\0\x20\0\x01\0\0\x40\x11\0\0", 12) + bytes(source) + bytes(destination);
    header.replace(10, 2, checksum(header));
  } else {
    header = std::string("\x60\0\0\0\0\x0c\x11\x40", 8) + bytes(source) + bytes(destination);
  }
  std::string frame =
      to_mac + std::string("\2\0\0\0\0\1", 6) + (v4 ? std::string("\x08\0", 2) : "\x86\xdd") + header + udp;
  REQUIRE_OK(sys::InNetns(ns, [&]() -> absl::Status {
    sys::UniqueFd fd(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_ifindex = static_cast<int>(if_nametoindex(ifname.c_str()));
    ssize_t n = sendto(fd.get(), frame.data(), frame.size(), 0, reinterpret_cast<sockaddr*>(&address), sizeof address);
    return n == static_cast<ssize_t>(frame.size()) ? absl::OkStatus() : ErrnoToStatus(errno, "send on " + ifname);
  }));
}

Ear::Ear(const sys::NetnsRef& ns, const std::string& ifname) {
  REQUIRE_OK(sys::InNetns(ns, [&]() -> absl::Status {
    socket_.reset(socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_ALL)));
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(if_nametoindex(ifname.c_str()));
    int buffer = 4 << 20;
    setsockopt(socket_.get(), SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    if (bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      return ErrnoToStatus(errno, "listen on " + ifname);
    }
    return absl::OkStatus();
  }));
}

void Ear::Drain() {
  char buffer[65536];
  sockaddr_ll from{};
  socklen_t size = sizeof from;
  ssize_t n;
  while ((n = recvfrom(socket_.get(), buffer, sizeof buffer, 0, reinterpret_cast<sockaddr*>(&from), &size)) >= 0) {
    uint16_t type = ntohs(from.sll_protocol);
    if (type != ETH_P_IP && type != ETH_P_IPV6) continue;
    heard_.emplace_back(std::string(buffer, static_cast<size_t>(n)), from.sll_pkttype == PACKET_OUTGOING);
  }
}

int Ear::Count(const Match& match) {
  Drain();
  int count = 0;
  for (const auto& [packet, outgoing] : heard_) count += match(packet, outgoing);
  return count;
}

namespace {

// Offset of the transport header when the packet carries `protocol`, else 0. No extension headers, no options.
size_t Payload(const std::string& packet, uint8_t v4_protocol, uint8_t v6_protocol) {
  if (packet.size() < 20) return 0;
  if ((packet[0] >> 4) == 4) return static_cast<uint8_t>(packet[9]) == v4_protocol ? 20 : 0;
  return static_cast<uint8_t>(packet[6]) == v6_protocol ? 40 : 0;
}

}  // namespace

bool IsTcpReset(const std::string& packet) {
  size_t at = Payload(packet, IPPROTO_TCP, IPPROTO_TCP);
  return at != 0 && packet.size() > at + 13 && (packet[at + 13] & 0x04) != 0;
}

bool IsEchoReply(const std::string& packet) {
  size_t at = Payload(packet, IPPROTO_ICMP, IPPROTO_ICMPV6);
  if (at == 0 || packet.size() <= at) return false;
  return static_cast<uint8_t>(packet[at]) == (at == 20 ? 0 : 129);
}

}  // namespace heterok8s::podnet
