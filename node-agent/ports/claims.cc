#include "node-agent/ports/claims.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <cstring>

namespace heterok8s::ports {
namespace {

constexpr uint32_t kMappedPrefix = 0xffff;  // third word of ::ffff:a.b.c.d, host order

IpAddress Loopback(Family family) {
  IpAddress address;
  address.family = family;
  if (family == Family::kV4) return IpAddress::V4(0x7f000001);
  address.bytes[15] = 1;
  return address;
}

hk_pair PairToWire(const IpAddress& self, const IpAddress& peer, const IpAddress& shown4, const IpAddress& shown6) {
  hk_pair pair{};
  pair.self[0] = ToWire(self);
  pair.self[1] = ToWire(podnet::LinkAddresses::ToV6(self));
  pair.peer[0] = ToWire(peer);
  pair.peer[1] = ToWire(podnet::LinkAddresses::ToV6(peer));
  pair.shown[0] = ToWire(shown4);
  pair.shown[1] = ToWire(shown6);
  return pair;
}

absl::Status CopyText(const std::string& text, std::string_view what, char (&to)[256]) {
  if (text.empty() || text.size() >= sizeof to) {
    return absl::InvalidArgumentError(fmt::format("{} '{}' must have 1 to {} bytes", what, text, sizeof to - 1));
  }
  std::memcpy(to, text.data(), text.size());
  return absl::OkStatus();
}

}  // namespace

bool Overlaps(const PortKey& a, const PortKey& b) {
  if (a.protocol != b.protocol || a.port != b.port) return false;
  bool a4 = a.address.family == Family::kV4, b4 = b.address.family == Family::kV4;
  bool any = a.address.is_unspecified() || b.address.is_unspecified();
  bool share_v4 = (a4 || a.dual_stack) && (b4 || b.dual_stack);
  bool share_v6 = !a4 && !b4;
  return a.address == b.address || (any && (share_v4 || share_v6));
}

PortKey Normalized(PortKey key) {
  key.address = FromWire(ToWire(key.address));
  if (key.address.family == Family::kV4 || !key.address.is_unspecified()) key.dual_stack = false;
  return key;
}

hk_addr ToWire(const IpAddress& address) {
  hk_addr wire{};
  if (address.family == Family::kV4) {
    wire.w[2] = htonl(kMappedPrefix);
    std::memcpy(&wire.w[3], address.bytes.data(), 4);
  } else {
    std::memcpy(wire.w, address.bytes.data(), 16);
  }
  return wire;
}

IpAddress FromWire(const hk_addr& wire) {
  IpAddress address;
  if (wire.w[0] == 0 && wire.w[1] == 0 && wire.w[2] == htonl(kMappedPrefix)) {
    std::memcpy(address.bytes.data(), &wire.w[3], 4);
  } else {
    address.family = Family::kV6;
    std::memcpy(address.bytes.data(), wire.w, 16);
  }
  return address;
}

hk_claim_key ToWire(uint64_t netns_cookie, const PortKey& key) {
  hk_claim_key wire{};
  wire.netns = netns_cookie;
  wire.addr = ToWire(key.address);
  wire.port = key.port;
  wire.protocol = static_cast<uint8_t>(key.protocol);
  wire.dual = key.dual_stack;
  return wire;
}

PortKey FromWire(const hk_claim_key& wire) {
  return {.protocol = static_cast<Protocol>(wire.protocol),
          .address = FromWire(wire.addr),
          .port = wire.port,
          .dual_stack = wire.dual != 0};
}

hk_remote ToWire(const std::set<PortKey>& claims_of_one_port) {
  hk_remote wire{};
  if (claims_of_one_port.size() > HK_REMOTE_CLAIMS) {
    wire.count = 1;
    wire.claims[0] = {.addr = {}, .dual = 1};
    return wire;
  }
  for (const PortKey& key : claims_of_one_port) {
    wire.claims[wire.count].addr = ToWire(key.address);
    wire.claims[wire.count].dual = key.dual_stack;
    ++wire.count;
  }
  return wire;
}

std::set<PortKey> FromWire(const hk_port_key& port, const hk_remote& claims) {
  std::set<PortKey> keys;
  for (uint32_t i = 0; i < claims.count && i < HK_REMOTE_CLAIMS; ++i) {
    keys.insert({.protocol = static_cast<Protocol>(port.protocol),
                 .address = FromWire(claims.claims[i].addr),
                 .port = port.port,
                 .dual_stack = claims.claims[i].dual != 0});
  }
  return keys;
}

absl::StatusOr<hk_pod> ToWire(const PodPorts& pod) {
  if (pod.addresses.empty() || pod.addresses.size() > HK_POD_ADDRESSES) {
    return absl::InvalidArgumentError(fmt::format("Pod '{}' has {} addresses; 1 to {} can be served", pod.pod_key,
                                                  pod.addresses.size(), HK_POD_ADDRESSES));
  }
  for (const IpAddress& link : {pod.link.host_localhost, pod.link.dpu_localhost, pod.link.host_pod, pod.link.dpu_pod}) {
    if (link.family != Family::kV4 || link.is_unspecified()) {
      return absl::InvalidArgumentError(fmt::format("Pod '{}': '{}' is no link address", pod.pod_key, link.ToString()));
    }
  }
  // What a name hook shows where the Pod has no address of a family does not matter: no call of that family is made.
  IpAddress first4 = Loopback(Family::kV4), first6 = Loopback(Family::kV6);
  for (auto address = pod.addresses.rbegin(); address != pod.addresses.rend(); ++address) {
    (address->family == Family::kV4 ? first4 : first6) = *address;
  }
  hk_pod wire{};
  bool host = pod.side == pu::Side::kHost;
  const podnet::LinkAddresses& link = pod.link;
  wire.pair[HK_LOCALHOST] =
      PairToWire(host ? link.host_localhost : link.dpu_localhost, host ? link.dpu_localhost : link.host_localhost,
                 Loopback(Family::kV4), Loopback(Family::kV6));
  wire.pair[HK_POD_IP] =
      PairToWire(host ? link.host_pod : link.dpu_pod, host ? link.dpu_pod : link.host_pod, first4, first6);
  wire.bound_localhost[0] = ToWire(podnet::LinkAddresses::Localhost(Family::kV4));
  wire.bound_localhost[1] = ToWire(podnet::LinkAddresses::Localhost(Family::kV6));
  for (const IpAddress& address : pod.addresses) wire.addresses[wire.address_count++] = ToWire(address);
  wire.own_first = pod.own_ephemeral.first;
  wire.own_last = pod.own_ephemeral.last;
  wire.other_first = pod.other_ephemeral.first;
  wire.other_last = pod.other_ephemeral.last;
  return wire;
}

absl::StatusOr<hk_pod_name> NameToWire(const PodPorts& pod) {
  hk_pod_name name{};
  HK_RETURN_IF_ERROR(CopyText(pod.pod_key, "Pod key", name.pod_key));
  HK_RETURN_IF_ERROR(CopyText(pod.netns_path, "network namespace path", name.netns_path));
  name.side = pod.side == pu::Side::kHost ? 0 : 1;
  return name;
}

PodPorts FromWire(const hk_pod& wire, const hk_pod_name& name) {
  PodPorts pod;
  pod.pod_key = name.pod_key;
  pod.netns_path = name.netns_path;
  pod.side = name.side == 0 ? pu::Side::kHost : pu::Side::kDpu;
  for (uint32_t i = 0; i < wire.address_count && i < HK_POD_ADDRESSES; ++i) {
    pod.addresses.push_back(FromWire(wire.addresses[i]));
  }
  const hk_pair& localhost = wire.pair[HK_LOCALHOST];
  const hk_pair& pod_ip = wire.pair[HK_POD_IP];
  bool host = pod.side == pu::Side::kHost;
  pod.link = {.host_localhost = FromWire(host ? localhost.self[0] : localhost.peer[0]),
              .dpu_localhost = FromWire(host ? localhost.peer[0] : localhost.self[0]),
              .host_pod = FromWire(host ? pod_ip.self[0] : pod_ip.peer[0]),
              .dpu_pod = FromWire(host ? pod_ip.peer[0] : pod_ip.self[0])};
  pod.own_ephemeral = {wire.own_first, wire.own_last};
  pod.other_ephemeral = {wire.other_first, wire.other_last};
  return pod;
}

}  // namespace heterok8s::ports
