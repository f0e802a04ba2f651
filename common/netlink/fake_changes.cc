// What each change does to the fake's state.
#include <fmt/format.h>

#include <cerrno>

#include "common/netlink/fake_state.h"

namespace heterok8s::netlink {
namespace {

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
    if (c.link == kFakeLoopback) return EOPNOTSUPP;
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
