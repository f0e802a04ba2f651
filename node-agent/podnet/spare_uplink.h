// An uplink that is made before its Pod is known.
//
// Purpose: of all that an uplink needs, making the veth pair takes the kernel longest. In a namespace that waits for a
// DPU half the pair is there already. What it cannot have before is its names: the Pod's end is called as nearly every
// runtime calls it, the root end gets its name as an alternative one, because a rename is an RCU grace period under
// RTNL and an alternative name is not (dev_change_name() and netdev_name_node_alt_create() in net/core/dev.c).
//
//   root namespace                                              spare namespace
//   hkus<inode> (altname hku3f0…, once it is taken) ─── veth ── eth0, alias "heterok8s:spare" until then; both down
//
// Threading: any thread, in the root namespace. Ownership: the pair goes with the spare namespace.
// Errors: the kernel's; TakeSpareUplink: absent when there is none, or it cannot be this owner's.
//
//   HK_RETURN_IF_ERROR(MakeSpareUplink(spare));
//   HK_ASSIGN_OR_RETURN(std::optional<UplinkPair> pair, TakeSpareUplink(*root, *pod_netlink, pod, spec, plan));
#pragma once

#include <optional>
#include <string>

#include "common/netlink/netlink.h"
#include "common/sys/netns.h"
#include "node-agent/podnet/podnet.h"
#include "node-agent/podnet/uplink_plan.h"

namespace heterok8s::podnet {

struct UplinkPair {
  netlink::Link root, pod;
  bool fresh = false;  // nothing stale can hang on it
};

absl::Status MakeSpareUplink(const sys::NetnsRef& spare);

// The pair that waits in `pod`, its root end with the owner's name and tag.
absl::StatusOr<std::optional<UplinkPair>> TakeSpareUplink(netlink::Netlink& root, netlink::Netlink& pod_netlink,
                                                          const sys::NetnsRef& pod, const UplinkSpec& spec,
                                                          const UplinkPlan& plan);

}  // namespace heterok8s::podnet
