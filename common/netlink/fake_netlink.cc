// What the fake shows.
#include "common/netlink/fake_netlink.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "common/netlink/fake_state.h"

namespace heterok8s::netlink {
namespace {

constexpr uint8_t kKernelProtocol = 2;  // RTPROT_KERNEL

}  // namespace

absl::StatusOr<std::vector<Link>> FakeNetlink::Links() {
  std::vector<Link> links;
  for (auto& [index, device] : kernel_.Find(netns_fd_)->devices) links.push_back(device.link);
  return links;
}

absl::StatusOr<Link> FakeNetlink::FindLink(const std::string& name) {
  auto* device = kernel_.Find(netns_fd_)->Named(name);
  if (device == nullptr) return ErrnoToStatus(ENODEV, fmt::format("find link '{}'", name));
  return device->link;
}

absl::StatusOr<std::vector<Address>> FakeNetlink::Addresses(int link) {
  std::vector<Address> all = kernel_.Find(netns_fd_)->addresses;
  std::erase_if(all, [&](const Address& a) { return link != 0 && a.link != link; });
  return all;
}

absl::StatusOr<std::vector<Route>> FakeNetlink::Routes(uint32_t table, int link, std::optional<Family> family) {
  std::vector<Route> all = kernel_.Find(netns_fd_)->routes;
  for (const Address& address : kernel_.Find(netns_fd_)->addresses) {
    bool v4 = address.prefix.address.family == Family::kV4;
    all.push_back({.destination = IpPrefix::Host(address.prefix.address),
                   .link = address.link,
                   .scope = v4 ? Scope::kHost : Scope::kGlobal,
                   .table = kTableLocal,
                   .type = RouteType::kLocal,
                   .protocol = kKernelProtocol});
  }
  std::erase_if(all, [&](const Route& r) {
    return r.table != table || (link != 0 && r.link != link) || (family && r.destination.address.family != *family);
  });
  return all;
}

absl::StatusOr<std::vector<Rule>> FakeNetlink::Rules(Family family) {
  std::vector<Rule> all = kernel_.Find(netns_fd_)->rules;
  std::erase_if(all, [&](const Rule& r) { return r.family != family; });
  std::stable_sort(all.begin(), all.end(), [](const Rule& a, const Rule& b) { return a.priority < b.priority; });
  return all;
}

absl::StatusOr<std::vector<Neighbor>> FakeNetlink::Neighbors(int link) {
  std::vector<Neighbor> all = kernel_.Find(netns_fd_)->neighbors;
  std::erase_if(all, [&](const Neighbor& n) { return link != 0 && n.link != link; });
  return all;
}

absl::StatusOr<Shaping> FakeNetlink::ShapingOf(int link) {
  auto* device = kernel_.Find(netns_fd_)->At(link);
  if (device == nullptr) return ErrnoToStatus(ENODEV, fmt::format("read the redirect of link {}", link));
  return device->shaping;
}

absl::Status FakeNetlink::SyncCarrier(const std::string& name) { return FindLink(name).status(); }

}  // namespace heterok8s::netlink
