#include "node-agent/pu/owner_tag.h"

#include <fmt/format.h>

namespace heterok8s::pu {
namespace {

constexpr std::string_view kPrefix = "heterok8s:";
constexpr size_t kMaxAlias = 255;  // IFALIASZ - 1

uint64_t Fnv1a(uint64_t hash, std::string_view text) {
  for (unsigned char c : text) hash = (hash ^ c) * 0x100000001b3;
  return (hash ^ 0xff) * 0x100000001b3;  // so that "ab","c" differs from "a","bc"
}

}  // namespace

uint64_t TagHash(const OwnerTag& tag, char role) {
  uint64_t hash = Fnv1a(0xcbf29ce484222325, tag.instance);
  hash = Fnv1a(hash, tag.pod_key);
  hash = Fnv1a(hash, tag.ifname);
  hash = Fnv1a(hash, std::string_view(&role, 1));
  // FNV leaves the upper bits poorly mixed, and names use them: murmur's finaliser.
  hash = (hash ^ (hash >> 33)) * 0xff51afd7ed558ccd;
  hash = (hash ^ (hash >> 33)) * 0xc4ceb9fe1a85ec53;
  return hash ^ (hash >> 33);
}

std::string DerivedMac(const OwnerTag& tag, char role) {
  uint64_t hash = TagHash(tag, role);
  auto byte = [&](int i) { return static_cast<unsigned>(hash >> (8 * i)) & 0xff; };
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", (byte(5) & 0xfc) | 0x02, byte(4), byte(3), byte(2),
                     byte(1), byte(0));
}

std::string OwnerTag::ToAlias() const { return fmt::format("{}{}:{}:{}", kPrefix, instance, pod_key, ifname); }

absl::StatusOr<OwnerTag> OwnerTag::FromAlias(const std::string& alias) {
  // A Pod key may hold colons; an instance and an interface name may not.
  size_t instance_end = alias.find(':', kPrefix.size());
  size_t ifname_begin = alias.rfind(':');
  if (alias.size() > kMaxAlias || alias.compare(0, kPrefix.size(), kPrefix) != 0 || instance_end == std::string::npos ||
      ifname_begin <= instance_end) {
    return absl::InvalidArgumentError(fmt::format("'{}' is not an owner tag", alias));
  }
  OwnerTag tag{.instance = alias.substr(kPrefix.size(), instance_end - kPrefix.size()),
               .pod_key = alias.substr(instance_end + 1, ifname_begin - instance_end - 1),
               .ifname = alias.substr(ifname_begin + 1)};
  if (tag.instance.empty() || tag.pod_key.empty() || tag.ifname.empty()) {
    return absl::InvalidArgumentError(fmt::format("owner tag '{}' has an empty part", alias));
  }
  return tag;
}

std::string InterfaceName(const OwnerTag& tag, char role) {
  return fmt::format("hk{}{:011x}", role, TagHash(tag, role) >> 20);
}

std::string LinkMac(const OwnerTag& tag, Side side) { return DerivedMac(tag, side == Side::kHost ? 'h' : 'd'); }

}  // namespace heterok8s::pu
