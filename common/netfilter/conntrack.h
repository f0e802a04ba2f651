// Forget tracked connections.
//
// Purpose: connection tracking remembers for a UDP flow where its first packet went; when a port gets or loses its
// owner, flows that go on sending would keep the old answer for as long as they send.
// Threading: any thread; works in the network namespace of the calling thread.
// Errors: kPermissionDenied; kUnimplemented or kInvalidArgument where the kernel lacks ctnetlink.
//
//   HK_ASSIGN_OR_RETURN(int flows, DeleteFlows({.protocol = Protocol::kUdp, .port = 53}));
#pragma once

#include <optional>

#include "common/net/ip.h"
#include "common/status/status.h"

namespace heterok8s::netfilter {

struct FlowFilter {  // what the first packet of the flow was sent to, before any translation
  Protocol protocol = Protocol::kUdp;
  std::optional<IpAddress> destination;  // absent: any, of both families
  uint16_t port = 0;
};

// How many were deleted. Flows that begin meanwhile are not waited for.
absl::StatusOr<int> DeleteFlows(const FlowFilter& filter);

}  // namespace heterok8s::netfilter
