// For tests of shares: sockets by the hundred, what the programs count, and a second Pod.
//
// Threading: the test's thread. Ownership: borrows what the constructors get. Errors: fail the test.
//
//   Counted counted(dpu);
//   auto sockets = Occupy(dpu.ns, SOCK_DGRAM, kAny, 1000, 30000, &error);
//   CHECK(counted.used() == HK_SHARE_MOST);
#pragma once

#include <bpf/bpf.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <string>
#include <vector>

#include "common/testing/matchers.h"
#include "node-agent/ports/claims.h"
#include "node-agent/ports/layout.h"
#include "node-agent/ports/two_pus.h"

namespace heterok8s::ports {

inline const IpAddress kAny = *IpAddress::Parse("0.0.0.0"), kLocalhost = *IpAddress::Parse("127.0.0.1");

// Sockets of `ns`, made by one thread there. Each bound to a port of its own, from `first` on; TCP ones listen.
inline std::vector<sys::UniqueFd> Occupy(const sys::NetnsRef& ns, int type, const IpAddress& address, uint16_t first,
                                         size_t count, int* error) {
  rlimit files{};
  REQUIRE(getrlimit(RLIMIT_NOFILE, &files) == 0);
  files.rlim_max = std::max<rlim_t>(files.rlim_max, HK_SHARE_MOST + 1000);
  files.rlim_cur = files.rlim_max;
  REQUIRE(setrlimit(RLIMIT_NOFILE, &files) == 0);
  std::vector<sys::UniqueFd> sockets;
  *error = 0;
  REQUIRE_OK(sys::InNetns(ns, [&]() -> absl::Status {
    while (sockets.size() < count && *error == 0) {
      sys::UniqueFd fd(socket(AF_INET, type | SOCK_CLOEXEC, 0));
      if (!fd.valid()) return ErrnoToStatus(errno, "socket");
      *error = Bind(fd, address, static_cast<uint16_t>(first + sockets.size()));
      if (*error == 0 && type == SOCK_STREAM && listen(fd.get(), 1) != 0) *error = -errno;
      if (*error == 0) sockets.push_back(std::move(fd));
    }
    return absl::OkStatus();
  }));
  return sockets;
}

// What the programs count, read beside heterod.
class Counted {
 public:
  explicit Counted(const Pu& pu)
      : shares_(Open(pu, "shares")),
        burst_(Open(pu, "burst")),
        local_(Open(pu, "local")),
        callers_(Open(pu, "callers")) {}

  // Of the only Pod, or of all.
  uint32_t used() const { return Sum(&hk_share::used); }
  uint32_t unowned() const { return Sum(&hk_share::unowned); }
  uint32_t burst() const {
    uint32_t zero = 0, value = 0;
    REQUIRE(bpf_map_lookup_elem(burst_.get(), &zero, &value) == 0);
    return value;
  }
  // As if other Pods had taken it.
  void SetBurst(uint32_t value) const {
    uint32_t zero = 0;
    REQUIRE(bpf_map_update_elem(burst_.get(), &zero, &value, BPF_ANY) == 0);
  }
  // As if the only Pod had had so many events, in that window.
  void SetTold(uint64_t told) const {
    ChangeShare([&](hk_share& share) { share.told = told; });
  }
  uint32_t claims() const { return Count<hk_claim_key>(local_); }
  // As if the program that took the last socket out of this claim of the only Pod could not remove its entry.
  void Stick(const PortKey& key) const {
    ChangeShare([](hk_share& share) { ++share.used; });
    const hk_claim_key wire = ToWire(OnlyPod(), key);
    const hk_local claim{.since_ns = 1, .life = 1ULL << 32, .no_slot = 0, .stuck = 1};
    REQUIRE(bpf_map_update_elem(local_.get(), &wire, &claim, BPF_NOEXIST) == 0);
  }
  uint32_t callers() const { return Count<hk_callers_key>(callers_); }

 private:
  uint64_t OnlyPod() const {
    uint64_t cookie = 0;
    REQUIRE(bpf_map_get_next_key(shares_.get(), nullptr, &cookie) == 0);
    return cookie;
  }
  template <typename Change>
  void ChangeShare(Change change) const {
    const uint64_t cookie = OnlyPod();
    hk_share share{};
    REQUIRE(bpf_map_lookup_elem(shares_.get(), &cookie, &share) == 0);
    change(share);
    REQUIRE(bpf_map_update_elem(shares_.get(), &cookie, &share, BPF_EXIST) == 0);
  }
  uint32_t Sum(uint32_t hk_share::*count) const {
    uint64_t cookie = 0;
    uint32_t sum = 0;
    for (void* from = nullptr; bpf_map_get_next_key(shares_.get(), from, &cookie) == 0; from = &cookie) {
      hk_share share{};
      if (bpf_map_lookup_elem(shares_.get(), &cookie, &share) == 0) sum += share.*count;
    }
    return sum;
  }
  static sys::UniqueFd Open(const Pu& pu, const char* map) {
    sys::UniqueFd fd(bpf_obj_get(fmt::format("{}/maps/{}", pu.options().bpffs, map).c_str()));
    REQUIRE(fd.valid());
    return fd;
  }
  template <typename Key>
  static uint32_t Count(const sys::UniqueFd& map) {
    Key key{}, next{};
    uint32_t n = 0;
    for (void* from = nullptr; bpf_map_get_next_key(map.get(), from, &next) == 0; from = &key, key = next) ++n;
    return n;
  }
  sys::UniqueFd shares_, burst_, local_, callers_;
};

template <typename Condition>
bool Eventually(Condition condition) {
  for (int i = 0; i < kPatienceMs / 20; ++i) {
    if (condition()) return true;
    usleep(20'000);
  }
  return condition();
}

// A second Pod of the same heterod.
struct Neighbour {
  explicit Neighbour(Pu& pu) : place(fmt::format("hkpn{}", getpid()), pu.side), ports(*pu.ports) {
    PodPorts pod = place.Pod();
    auto v4 = [](int last) { return IpAddress::V4(0xa9fe4000 + last); };
    pod.link = {.host_localhost = v4(8), .dpu_localhost = v4(9), .host_pod = v4(10), .dpu_pod = v4(11)};
    pod.addresses = {*IpAddress::Parse("10.200.0.6")};
    REQUIRE_OK(ports.AddPod(pod));
  }
  ~Neighbour() { (void)ports.RemovePod(place.pod_key); }
  Pu place;
  Ports& ports;
};

}  // namespace heterok8s::ports
