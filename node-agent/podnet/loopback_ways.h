// The ways by which calls of the Node's own localhost reach Pods with host ports.
//
// Purpose: 127.0.0.1:hostPort is translated to the Pod, and its packets leave by a device with a source of 127/8. Linux
// allows that only where route_localnet is on. A Pod's uplink goes with its Pod; the device by which a split Pod is
// reached is everybody's (the Node's own interface to the DPU), so what was switched on there is noted in the table's
// set `localnet` before, and switched off again when the last host port that needs it has gone. One that was on already
// is somebody else's and stays.
// Threading: the caller holds the lock of the table and is in the root namespace. Ownership: none; the kernel
// remembers. Errors: the kernel's; kFailedPrecondition without a route to the Pod.
//
//   HK_ASSIGN_OR_RETURN(WayToPod way, FindWay(*netlink, spec));
//   HK_ASSIGN_OR_RETURN(std::string mark, MarkLoopback(table, present, spec, way));  // goes with the ports' script
//   HK_RETURN_IF_ERROR(ServeLoopback(*netlink, spec, way));
//   HK_RETURN_IF_ERROR(LeaveLoopback(*nft, table, before));  // after ports have gone
#pragma once

#include <string>

#include "common/netfilter/nft.h"
#include "common/netlink/netlink.h"
#include "node-agent/podnet/hostport_table.h"

namespace heterok8s::podnet {

// The interface by which this namespace reaches a Pod.
struct WayToPod {
  int link = 0;
  std::string ifname;
  bool own_interface = false;  // the Pod's uplink, not a way shared with others
};
absl::StatusOr<WayToPod> FindWay(netlink::Netlink& netlink, const HostPortSpec& spec);

// The script that notes the device, when it is to be switched on; mostly empty.
absl::StatusOr<std::string> MarkLoopback(const std::string& table, const HostPortElements& present,
                                         const HostPortSpec& spec, const WayToPod& way);
// Lets calls from 127.0.0.1 and ::1 leave by the Pod's way, and their answers come back.
absl::Status ServeLoopback(netlink::Netlink& netlink, const HostPortSpec& spec, const WayToPod& way);
// Switches off what was noted and what no host port in the table needs any more. `before`: what was in it before ports
// have gone.
absl::Status LeaveLoopback(netfilter::Nft& nft, const std::string& table, const HostPortElements& before);

}  // namespace heterok8s::podnet
