// Sockets in chosen network namespaces, and an ear on a device, for tests. A socket stays in the namespace where it
// was made, so one test thread can play every program of a topology.
//
// Threading: one test thread. Nothing waits longer than kPatience; what is awaited is always a packet.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/net/endpoint.h"
#include "common/net/ip.h"
#include "common/sys/netns.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::podnet {

inline constexpr std::chrono::seconds kPatience{30};

using heterok8s::Endpoint;
Endpoint At(const char* address, uint16_t port);

// A TCP listener or a bound UDP socket. Port 0: the kernel's choice, see LocalPort.
sys::UniqueFd Listen(const sys::NetnsRef& ns, Protocol protocol, const Endpoint& at);
uint16_t LocalPort(const sys::UniqueFd& socket);
Endpoint PeerOf(const sys::UniqueFd& socket);

// errno of the connection attempt, 0 when it worked (`out` is the connection then); ETIMEDOUT after `patience`.
int Connect(const sys::NetnsRef& ns, const Endpoint& to, sys::UniqueFd* out,
            std::chrono::milliseconds patience = kPatience, const std::optional<Endpoint>& from = {});
// A UDP socket with a fixed peer: it also receives that peer's ICMP errors.
sys::UniqueFd ConnectUdp(const sys::NetnsRef& ns, const Endpoint& to, const std::optional<Endpoint>& from = {});
// The accepted connection; invalid when none came.
sys::UniqueFd Accept(const sys::UniqueFd& listener);

bool Send(const sys::UniqueFd& socket, const std::string& text);
bool SendTo(const sys::UniqueFd& socket, const Endpoint& to, const std::string& text);
// TCP, all of it. SendAll leaves what the buffers do not take to the kernel: they are made large enough first.
bool SendAll(const sys::UniqueFd& socket, const std::string& text);
std::string ReceiveAll(const sys::UniqueFd& socket, size_t bytes);
// What arrived; "error <errno>" for a pending error, "nothing" when nothing came.
std::string Receive(const sys::UniqueFd& socket, Endpoint* from = nullptr);

std::string MacOf(const sys::NetnsRef& ns, const std::string& ifname);  // six bytes
// A UDP packet with any source, put on the wire below the routing code's own checks.
void SendForged(const sys::NetnsRef& ns, const std::string& ifname, const std::string& to_mac, const IpAddress& source,
                const IpAddress& destination);

// Hears all IP packets that pass the device. Count() reads what has been heard so far.
class Ear {
 public:
  Ear(const sys::NetnsRef& ns, const std::string& ifname);
  // Packet from the IP header on, true for outgoing ones.
  using Match = std::function<bool(const std::string& packet, bool outgoing)>;
  int Count(const Match& match);

 private:
  void Drain();
  sys::UniqueFd socket_;
  std::vector<std::pair<std::string, bool>> heard_;
};
bool IsTcpReset(const std::string& packet);
bool IsEchoReply(const std::string& packet);

}  // namespace heterok8s::podnet
