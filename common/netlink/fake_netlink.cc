#include "common/netlink/fake_netlink.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

namespace heterok8s::netlink {
namespace {

constexpr int kLoopback = 1;
constexpr uint8_t kKernelProtocol = 2;  // RTPROT_KERNEL

bool SameRouteKey(const Route& a, const Route& b) {
  return a.destination.Masked() == b.destination.Masked() && a.table == b.table && a.metric == b.metric;
}

bool IsLinkLocal(const IpAddress& address) {
  return address.family == Family::kV6 && address.bytes[0] == 0xfe && (address.bytes[1] & 0xc0) == 0x80;
}

template <typename T, typename Predicate>
bool EraseFirst(std::vector<T>& all, Predicate predicate) {
  auto found = std::find_if(all.begin(), all.end(), predicate);
  if (found == all.end()) return false;
  all.erase(found);
  return true;
}

}  // namespace

struct FakeKernel::Netns {
  struct Device {
    Link link;
    int pair = 0;  // the two ends of a veth have the same number; 0: no veth
    Shaping shaping;
  };

  std::map<int, Device> devices;
  std::vector<Address> addresses;
  std::vector<Route> routes;
  std::vector<Rule> rules;
  std::vector<Neighbor> neighbors;
  int next_index = kLoopback;

  Device* Named(const std::string& name) {
    for (auto& [index, device] : devices) {
      const auto& alt = device.link.altnames;
      if (device.link.name == name || std::find(alt.begin(), alt.end(), name) != alt.end()) return &device;
    }
    return nullptr;
  }
  Device* At(int index) {
    auto found = devices.find(index);
    return found != devices.end() ? &found->second : nullptr;
  }
  Device& Add(const std::string& name, const std::string& kind) {
    int index = next_index++;
    Device& device = devices[index];
    device.link = {.index = index, .name = name, .kind = kind, .mtu = 1500, .inet6 = Inet6Conf{.accept_ra = 1}};
    return device;
  }
  // Linux keeps a device's IPv4 addresses when it goes down, and nothing else.
  void ForgetOnDown(int index) {
    std::erase_if(addresses,
                  [&](const Address& a) { return a.link == index && a.prefix.address.family == Family::kV6; });
    std::erase_if(routes, [&](const Route& r) { return r.link == index; });
    std::erase_if(neighbors, [&](const Neighbor& n) { return n.link == index; });
  }
  void ForgetAll(int index) {
    ForgetOnDown(index);
    std::erase_if(addresses, [&](const Address& a) { return a.link == index; });
  }
};

FakeKernel::FakeKernel() { NewNetns(); }
FakeKernel::~FakeKernel() = default;

int FakeKernel::NewNetns() {
  auto netns = std::make_unique<Netns>();
  Netns::Device& lo = netns->Add("lo", "");
  lo.link.mtu = 65536;
  lo.link.up = lo.link.running = true;
  for (Family family : {Family::kV4, Family::kV6}) {
    netns->rules.push_back({.family = family, .priority = 0, .table = kTableLocal});
    netns->rules.push_back({.family = family, .priority = 32766, .table = kTableMain});
  }
  namespaces_[next_fd_] = std::move(netns);
  return next_fd_++;
}

FakeKernel::Netns* FakeKernel::Find(int netns_fd) {
  auto found = namespaces_.find(netns_fd);
  return found != namespaces_.end() ? found->second.get() : nullptr;
}

void FakeKernel::DeleteNetns(int netns_fd) {
  Netns* gone = Find(netns_fd);
  if (gone == nullptr) return;
  for (auto& [index, device] : gone->devices) {
    if (device.pair == 0) continue;
    for (auto& [fd, netns] : namespaces_) {
      if (netns.get() == gone) continue;
      std::erase_if(netns->devices, [&, pair = device.pair, ns = netns.get()](auto& entry) {
        if (entry.second.pair != pair) return false;
        ns->ForgetAll(entry.first);
        return true;
      });
    }
  }
  namespaces_.erase(netns_fd);
}

// One change, to an errno value; 0 is success.
struct FakeNetlink::Visitor {
  FakeKernel& kernel;
  FakeKernel::Netns& here;

  using Netns = FakeKernel::Netns;
  using Device = FakeKernel::Netns::Device;

  // The number that stands for a namespace's descriptor is its id as well.
  Netns* Resolve(const VethEnd& end) {
    int fd = end.netns_id.value_or(end.netns_fd);
    return fd < 0 ? &here : kernel.Find(fd);
  }
  int IdOf(const Netns* netns) const {
    for (auto& [fd, one] : kernel.namespaces_) {
      if (one.get() == netns) return fd;
    }
    return -1;
  }

  // The other end and its namespace.
  std::pair<Netns*, Device*> PeerOf(const Device& device) {
    for (auto& [fd, netns] : kernel.namespaces_) {
      for (auto& [index, other] : netns->devices) {
        if (device.pair != 0 && other.pair == device.pair && &other != &device) return {netns.get(), &other};
      }
    }
    return {nullptr, nullptr};
  }
  void UpdateCarrier(Device& device, const Netns& home) {
    auto [netns, peer] = PeerOf(device);
    if (peer == nullptr) {
      device.link.running = device.link.up;
      return;
    }
    device.link.running = peer->link.running = device.link.up && peer->link.up;
    device.link.peer_index = peer->link.index;
    peer->link.peer_index = device.link.index;
    bool together = netns == &home;
    device.link.peer_netns_id = together ? std::nullopt : std::optional<int>(IdOf(netns));
    peer->link.peer_netns_id = together ? std::nullopt : std::optional<int>(IdOf(&home));
  }

  int operator()(const AddVeth& c) {
    Netns* mine = Resolve(c.end);
    Netns* theirs = Resolve(c.peer);
    if (mine == nullptr || theirs == nullptr || c.peer.netns_id) return EINVAL;
    if (mine->Named(c.end.name) || theirs->Named(c.peer.name)) return EEXIST;
    if (mine == theirs && c.end.name == c.peer.name) return EEXIST;
    int pair = kernel.next_pair_++;
    auto make = [&](Netns& netns, const VethEnd& end, int which) -> Device& {
      Device& device = netns.Add(end.name, "veth");
      device.pair = pair;
      device.link.mac = end.mac.empty() ? fmt::format("02:ff:00:00:{:02x}:{:02x}", pair & 0xff, which) : end.mac;
      if (end.mtu != 0) device.link.mtu = end.mtu;
      return device;
    };
    make(*theirs, c.peer, 1);
    UpdateCarrier(make(*mine, c.end, 0), *mine);
    return 0;
  }
  int operator()(const AddIfb& c) {
    if (here.Named(c.name)) return EEXIST;
    here.Add(c.name, "ifb").link.mac = "02:ff:ff:00:00:01";
    return 0;
  }
  int operator()(const DeleteLink& c) {
    Device* device = here.At(c.link);
    if (device == nullptr) return ENODEV;
    if (c.link == kLoopback) return EOPNOTSUPP;
    auto [netns, peer] = PeerOf(*device);
    if (peer != nullptr) {
      int index = peer->link.index;
      netns->ForgetAll(index);
      netns->devices.erase(index);
    }
    here.ForgetAll(c.link);
    here.devices.erase(c.link);
    return 0;
  }
  int operator()(const SetLink& c) {
    Device* device = c.link != 0 ? here.At(c.link) : here.Named(c.by_name);
    if (device == nullptr) return ENODEV;
    Netns* home = &here;
    if (c.netns_fd >= 0) {
      home = kernel.Find(c.netns_fd);
      if (home == nullptr) return EINVAL;
      if (home != &here) {
        if (home->Named(c.name.value_or(device->link.name))) return EEXIST;
        device = Move(*device, *home);
      }
    }
    if (c.name && *c.name != device->link.name) {
      if (home->Named(*c.name)) return EEXIST;
      device->link.name = *c.name;
    }
    if (c.mac) device->link.mac = *c.mac;
    if (c.alias) device->link.alias = *c.alias;
    if (c.mtu) device->link.mtu = *c.mtu;
    if (c.no_link_local && device->link.inet6) device->link.inet6->no_link_local = true;
    if (c.up && *c.up != device->link.up) {
      device->link.up = *c.up;
      if (!*c.up) home->ForgetOnDown(device->link.index);
      UpdateCarrier(*device, *home);
    }
    return 0;
  }
  Device* Move(Device& device, Netns& to) {
    Device copy = device;
    here.ForgetAll(copy.link.index);
    here.devices.erase(copy.link.index);
    // The kernel keeps the index where it is free.
    if (to.At(copy.link.index) != nullptr) copy.link.index = to.next_index;
    to.next_index = std::max(to.next_index, copy.link.index) + 1;
    copy.link.up = false;
    Device& moved = to.devices[copy.link.index] = copy;
    UpdateCarrier(moved, to);
    return &moved;
  }
  int operator()(const AddAltName& c) {
    Device* device = here.At(c.link);
    if (device == nullptr) return ENODEV;
    if (here.Named(c.name)) return EEXIST;
    device->link.altnames.push_back(c.name);
    return 0;
  }

  int PutAddress(const Address& address, bool replace) {
    if (here.At(address.link) == nullptr) return ENODEV;
    bool had = EraseFirst(here.addresses, [&](const Address& a) {
      return a.link == address.link && a.prefix == address.prefix && replace;
    });
    bool has = std::any_of(here.addresses.begin(), here.addresses.end(),
                           [&](const Address& a) { return a.link == address.link && a.prefix == address.prefix; });
    if (has && !had) return EEXIST;
    here.addresses.push_back(address);
    return 0;
  }
  int operator()(const AddAddress& c) { return PutAddress(c.address, false); }
  int operator()(const ReplaceAddress& c) { return PutAddress(c.address, true); }
  int operator()(const DeleteAddress& c) {
    if (here.At(c.address.link) == nullptr) return ENODEV;
    bool had = EraseFirst(here.addresses,
                          [&](const Address& a) { return a.link == c.address.link && a.prefix == c.address.prefix; });
    return had ? 0 : EADDRNOTAVAIL;
  }

  int PutRoute(const Route& route, bool replace) {
    bool needs_link = route.type == RouteType::kUnicast || route.type == RouteType::kLocal;
    if (needs_link) {
      Device* device = here.At(route.link);
      if (device == nullptr) return ENODEV;
      if (!device->link.up) return ENETDOWN;
    }
    if (route.source) {
      bool ours = std::any_of(here.addresses.begin(), here.addresses.end(),
                              [&](const Address& a) { return a.prefix.address == *route.source; });
      if (!ours) return EINVAL;
    }
    if (route.via && !route.onlink && !IsLinkLocal(*route.via)) {
      bool reachable = std::any_of(here.routes.begin(), here.routes.end(), [&](const Route& r) {
        return r.link == route.link && !r.via && r.destination.Contains(*route.via);
      });
      if (!reachable) return route.via->family == Family::kV4 ? ENETUNREACH : EHOSTUNREACH;
    }
    auto same = [&](const Route& r) { return SameRouteKey(r, route); };
    if (replace) {
      EraseFirst(here.routes, same);
    } else if (std::any_of(here.routes.begin(), here.routes.end(), same)) {
      return EEXIST;
    }
    here.routes.push_back(route);
    return 0;
  }
  int operator()(const AddRoute& c) { return PutRoute(c.route, false); }
  int operator()(const ReplaceRoute& c) { return PutRoute(c.route, true); }
  int operator()(const DeleteRoute& c) {
    bool had = EraseFirst(here.routes, [&](const Route& r) {
      return SameRouteKey(r, c.route) && (c.route.link == 0 || r.link == c.route.link) &&
             (!c.route.via || r.via == c.route.via);
    });
    return had ? 0 : ESRCH;
  }

  int operator()(const AddRule& c) {
    if (std::find(here.rules.begin(), here.rules.end(), c.rule) != here.rules.end()) return EEXIST;
    here.rules.push_back(c.rule);
    return 0;
  }
  int operator()(const DeleteRule& c) {
    return EraseFirst(here.rules, [&](const Rule& r) { return r == c.rule; }) ? 0 : ENOENT;
  }

  int operator()(const ReplaceNeighbor& c) {
    if (here.At(c.neighbor.link) == nullptr) return ENODEV;
    (*this)(DeleteNeighbor{c.neighbor});
    here.neighbors.push_back(c.neighbor);
    return 0;
  }
  int operator()(const DeleteNeighbor& c) {
    if (here.At(c.neighbor.link) == nullptr) return ENODEV;
    bool had = EraseFirst(here.neighbors, [&](const Neighbor& n) {
      return n.link == c.neighbor.link && n.address == c.neighbor.address;
    });
    return had ? 0 : ENOENT;
  }

  int operator()(const ReplaceTbf& c) {
    Device* device = here.At(c.link);
    if (device == nullptr) return ENODEV;
    device->shaping.root = c.tbf;
    return 0;
  }
  int operator()(const DeleteRootQueue& c) {
    Device* device = here.At(c.link);
    if (device == nullptr) return ENODEV;
    if (!device->shaping.root) return ENOENT;
    device->shaping.root.reset();
    return 0;
  }
  int operator()(const AddRedirect& c) {
    Device* device = here.At(c.link);
    if (device == nullptr || here.At(c.to) == nullptr) return ENODEV;
    if (device->shaping.redirect) return EEXIST;
    device->shaping.redirect = c.to;
    return 0;
  }
  int operator()(const DeleteRedirect& c) {
    Device* device = here.At(c.link);
    if (device == nullptr) return ENODEV;
    if (!device->shaping.redirect) return ENOENT;
    device->shaping.redirect.reset();
    return 0;
  }
};

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

absl::Status FakeNetlink::Apply(const Batch& batch) {
  absl::Status failure;
  for (const Batch::Item& item : batch.items()) {
    int error = 0;
    if (auto failing = failures_.find(std::string(KindOf(item.change))); failing != failures_.end()) {
      error = failing->second;
      failures_.erase(failing);
    } else {
      error = std::visit(Visitor{kernel_, *kernel_.Find(netns_fd_)}, item.change);
    }
    if (error == 0) continue;
    if (error == EADDRNOTAVAIL) error = ENOENT;
    absl::Status status = ErrnoToStatus(error, Describe(item.change));
    if (failure.ok() && status.code() != item.tolerated) failure = status;
  }
  return failure;
}

}  // namespace heterok8s::netlink
