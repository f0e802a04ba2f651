// What a FakeKernel holds of one namespace. For fake_*.cc only.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "common/netlink/fake_netlink.h"

namespace heterok8s::netlink {

inline constexpr int kFakeLoopback = 1;

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
  int next_index = kFakeLoopback;

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

}  // namespace heterok8s::netlink
