// The fake's namespaces.
#include "common/netlink/fake_state.h"

namespace heterok8s::netlink {

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

}  // namespace heterok8s::netlink
