// Which addresses a Pod gets.
//
// Purpose: the built-in allocator (several ranges, one address of each; host-local's configuration is accepted) over
// the ledger, or delegation to an IPAM plugin found in CNI_PATH.
// Pods are routed: no subnet is on a Pod's link, so an address has its full length (/32, /128) and no gateway, and the
// subnets of the configuration only say where addresses come from. "routes" are what the Pod reaches, by its Node; none
// means everything, in each family it has an address of.
// Threading: thread-safe. Ownership: borrows the ledger through the transaction it is given.
// Errors: kInvalidConfig, kAddressExhausted as CNI codes; a delegated plugin's own error is passed through unchanged.
//
//   HK_ASSIGN_OR_RETURN(Lease lease, ipam.Allocate(tx, request, pod_key));
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "common/cni/types.h"
#include "node-agent/ledger/ledger.h"

namespace heterok8s::ipam {

struct Lease {
  std::vector<cni::ResultIp> ips;  // one of each range set, in the configuration's order
  // Where the network's Pods are: all subnets of the configuration, or those in which a delegated plugin answered. None
  // is inside another.
  std::vector<IpPrefix> subnets;
  std::vector<cni::Route> routes;  // never empty; without a gateway, which is the Pod's Node
  cni::Dns dns;
};

class Ipam {
 public:
  virtual ~Ipam() = default;
  // Built-in: inside `tx`, so that addresses and attachment commit together; repeated for the same pod_key and network
  // it returns the same lease. Delegated: the plugin is executed (outside any transaction: see is_delegated).
  virtual absl::StatusOr<Lease> Allocate(ledger::Tx& tx, const cni::Request& request, const std::string& pod_key) = 0;
  virtual absl::Status Release(ledger::Tx& tx, const cni::Request& request, const std::string& pod_key) = 0;
  // Built-in: the Pod still holds one address of each range set, and those that prevResult shows for it are its own.
  virtual absl::Status Check(ledger::Tx& tx, const cni::Request& request, const std::string& pod_key) = 0;
  // True when the config names an IPAM plugin other than ours ("heterok8s" or "host-local").
  virtual bool is_delegated(const cni::Request& request) const = 0;
  // Delegation; environment and stdin are the request's own, so is what the plugin answers when it fails. ADD rolls
  // back by the plugin's DEL itself, when the plugin fails or its answer is unusable. May take kDelegateDeadline.
  virtual absl::StatusOr<Lease> DelegateAdd(const cni::Request& request) = 0;
  virtual absl::Status Delegate(const cni::Request& request, const std::string& command) = 0;  // DEL, CHECK, GC, STATUS
};

inline constexpr std::chrono::seconds kDelegateDeadline{30};

std::unique_ptr<Ipam> NewIpam();

}  // namespace heterok8s::ipam
