// How much a domain may have: channels and the memory that they may come to use.
//
// Credits are taken before a channel is made and given back when it is gone, so no byte that was written is ever
// refused. A channel between two domains is charged to both in full: either could be the one that fills it. Threading:
// thread-compatible. Ownership: values. Errors: false.
//
//   if (!credits.Take(Key(domain), bytes)) return Decline(offer, Reason::kExhausted);
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "heterosock/agent/pairing.h"

namespace heterok8s::heterosock::agent {

class Credits {
 public:
  struct Limits {
    uint64_t channels = 20000;
    uint64_t bytes = uint64_t{64} << 30;  // of address space: memory that is not touched is not used
  };
  struct Use {
    uint64_t channels = 0, bytes = 0;
    uint64_t refused = 0;  // since the domain's first channel
  };
  explicit Credits(Limits limits) : limits_(limits) {}

  bool Take(const std::string& domain, uint64_t bytes) {
    Use& use = uses_[domain];
    if (use.channels + 1 > limits_.channels || use.bytes + bytes > limits_.bytes) {
      ++use.refused;
      return false;
    }
    ++use.channels;
    use.bytes += bytes;
    return true;
  }
  void GiveBack(const std::string& domain, uint64_t bytes) {
    auto found = uses_.find(domain);
    if (found == uses_.end()) return;
    --found->second.channels;
    found->second.bytes -= bytes;
    if (found->second.channels == 0) uses_.erase(found);
  }
  const std::map<std::string, Use>& uses() const { return uses_; }
  const Limits& limits() const { return limits_; }

 private:
  const Limits limits_;
  std::map<std::string, Use> uses_;
};

// The name under which a domain's credits are kept: its Pod, else its cgroup. Below a user@UID.service a user makes as
// many cgroups as it likes (systemd.resource-control(5), Delegate=): they are one domain.
inline std::string CreditKey(const Domain& domain) {
  if (!domain.pod_uid.empty()) return "pod:" + domain.pod_uid;
  if (domain.cgroup.empty()) return "cgroup:?";
  constexpr std::string_view kEnd = ".service/";
  const size_t user = domain.cgroup.find("/user@"), end = domain.cgroup.find(kEnd, user);
  const bool delegated = end != std::string::npos && domain.cgroup.find('/', user + 1) == end + kEnd.size() - 1;
  return "cgroup:" + (delegated ? domain.cgroup.substr(0, end + kEnd.size() - 1) : domain.cgroup);
}

}  // namespace heterok8s::heterosock::agent
