// What both engines read from a CNI request.
//
// Threading: pure functions. Errors: Status with a CNI code.
//
//   HK_RETURN_IF_ERROR(CheckAdd(request));
//   std::string pod_key = PodKeyOf(request);
#pragma once

#include <string>

#include "common/cni/types.h"
#include "node-agent/attach/details.h"
#include "node-agent/ledger/ledger.h"

namespace heterok8s::attach {

// The Pod's UID, or the container id where the runtime gives none.
std::string PodKeyOf(const cni::Request& request);
ledger::AttachmentKey KeyOf(const cni::Request& request);
// "default/web (uid …)", for messages.
std::string Describe(const cni::Request& request);

// What this plugin cannot do is refused by name: being chained behind another plugin.
absl::Status CheckAdd(const cni::Request& request);
// CHECK's prevResult is there and shows this attachment's interface and addresses.
absl::Status CheckPrevResult(const cni::Request& request, const Details& details);

// Row and details as far as the request alone says them.
ledger::Attachment RowOf(const cni::Request& request);
absl::StatusOr<Details> DetailsOf(const cni::Request& request, int default_mtu);
void SetLease(Details& details, const std::vector<cni::ResultIp>& ips, const std::vector<cni::Route>& routes,
              const cni::Dns& lease_dns, const cni::Dns& config_dns);

// What the Pod's namespace routes: the destinations of the lease; its subnets, which the reference plugin ptp leads to
// the Node as well, so that a second interface serves its network while the default routes are the first one's; and
// `node`, whose calls the Pod is to answer. kInvalidConfig for an MTU that the interface cannot have.
absl::Status SetPodRoutes(Details& details, const std::vector<IpPrefix>& subnets, const std::vector<IpAddress>& node);

// ipMasq: outside of the lease's subnets.
void SetMasquerade(Details& details, const std::vector<IpPrefix>& subnets, const cni::NetworkConfig& config);

// `interfaces` with the Pod's own at `pod_interface`; addresses, routes (by the Node) and DNS from the details.
cni::Result ResultOf(const Details& details, std::vector<cni::Interface> interfaces, size_t pod_interface);

// Gives a status of a lower layer the CNI code that says what it means here; a status that has a code keeps it.
absl::Status WithCode(const absl::Status& status, absl::StatusCode when, cni::ErrorCode code);

// The request that a row's delegated IPAM plugin was called with; for a built-in one, enough to release by.
absl::StatusOr<cni::Request> IpamRequestOf(const ledger::Attachment& row, const Details& details);

}  // namespace heterok8s::attach
