// Bandwidth of one Pod: the CNI capability on an uplink.
//
// Purpose: everything is in the root namespace, out of the Pod's reach. Towards the Pod a token bucket on the root end
// shapes what leaves it; from the Pod, what arrives on the root end is redirected to an ifb device of the Pod
// (InterfaceName(tag,'b')), whose token bucket shapes it.
// Threading: any thread, with a Netlink of the root namespace. Errors: those of Netlink; kFailedPrecondition from
// CheckBandwidth, with the first difference as its text.
//
//   HK_RETURN_IF_ERROR(EnsureBandwidth(root, root_end, owner, spec.bandwidth));
#pragma once

#include <optional>

#include "common/netlink/netlink.h"
#include "node-agent/podnet/podnet.h"

namespace heterok8s::podnet {

// Without a burst: what passes in 20 ms. The queue holds what passes in 25 ms beyond the burst, as the reference
// bandwidth plugin has it.
netlink::Tbf TokenBucket(uint64_t rate_bits, uint64_t burst_bits, int mtu);

// Call before the root end is up: a queue then costs no grace period.
absl::Status EnsureBandwidth(netlink::Netlink& root, const netlink::Link& root_end, const pu::OwnerTag& owner,
                             const std::optional<Bandwidth>& bandwidth);
absl::Status CheckBandwidth(netlink::Netlink& root, const netlink::Link& root_end, const pu::OwnerTag& owner,
                            const std::optional<Bandwidth>& bandwidth);
// The ifb device; the rest goes with the root end. OK when there is none.
absl::Status RemoveBandwidth(netlink::Netlink& root, const pu::OwnerTag& owner);

}  // namespace heterok8s::podnet
