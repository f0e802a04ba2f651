// The link between two PUs that are two network namespaces of one kernel: a veth pair.
//
// Purpose: the embedded back end for a laptop, a demo, CI. The host makes the pair with its own end at once in the
// Pod's namespace, under its final name; the other end is born in pod-d, when the Pod's uplink (InterfaceName(tag,
// 'u')) shows where that is, else in the DPU's root namespace, from where AcceptLink moves it. Both ends carry the
// owner's tag. Cost: about a millisecond; a move is an RCU barrier under the kernel's RTNL lock, some 20 ms in which no
// other link of the machine can change, and is left for what an interrupted call has put into the root namespace.
// Threading: thread-safe. Ownership, errors: see backend.h; kUnavailable when `peer_netns` is gone (the lab is down),
// kAlreadyExists when the Pod has an interface of the wanted name that is not ours.
//
//   HK_ASSIGN_OR_RETURN(auto backend, NewNetnsBackend({.side = Side::kHost, .instance = "demo",
//                                                      .peer_netns = "/run/heterok8s/dpu.netns"}));
#pragma once

#include <memory>
#include <string>

#include "node-agent/pu/backend.h"

namespace heterok8s::pu {

struct NetnsBackendOptions {
  Side side = Side::kHost;
  std::string instance;    // ListLinks() shows this one's links only
  std::string peer_netns;  // host: where the DPU's root namespace is bound; not used on the DPU
};

// The end in a Pod always answers to this name, whatever CNI calls the interface.
inline constexpr char kLinkName[] = "xpu0";

// This PU's root namespace is the one of the calling thread.
absl::StatusOr<std::unique_ptr<Backend>> NewNetnsBackend(NetnsBackendOptions options);

}  // namespace heterok8s::pu
