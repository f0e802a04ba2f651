// hostPort: ports of the Node that lead to a Pod; and ipMasq, which is in the same table.
//
// Purpose: PodNet's host port part. The root namespace's nft table `inet heterok8s_<instance>` holds four maps
//
//   any4  tcp . 80             → 10.88.0.5 . 8080     every address of the Node
//   one4  192.0.2.1 . udp . 53 → 10.88.0.5 . 5353     one address (hostIP); and any6, one6
//
// and rules that translate destinations by them, in prerouting for callers elsewhere and in output for the Node's own
// (127.0.0.1:hostPort and [::1]:hostPort included). The element's comment is the Pod's key, so the kernel is the only
// place that knows.
// The source is kept, except where the answer would not come back this way: the Node's own calls from localhost, a Pod
// that calls itself, and calls from beyond this PU to a Pod that has no interface of its own here (a split Pod is
// behind the DPU, whose answers to such callers would not pass here).
// On the DPU far4 and far6 are like one4 and one6, with addresses of the host: calls from outside are translated where
// their answers pass, and keep their source. The host's own calls, and its Pods', are translated on the host.
// Of a Pod with ipMasq `masq4` has the address and `inside4` the pairs of it and a range in which it is kept, as
// bridge's and ptp's ipMasq keep it in the Pod's subnet; multicast is left alone. One rule for all Pods.
// The same table refuses what no Pod may send; see HostPortTableScript.
// Threading: any thread. The calling thread is in the root namespace.
// Errors: kAlreadyExists names the Pod that has the port; kNotFound before PrepareHostPorts.
//
//   HK_RETURN_IF_ERROR(PrepareHostPorts("demo"));
//   HK_RETURN_IF_ERROR(EnsureHostPorts("demo", {.pod_key = uid, .ports = ports, .addresses = addresses}));
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "node-agent/podnet/podnet.h"

namespace heterok8s::podnet {

// "inet heterok8s_demo". Instances on one kernel may share a root namespace.
std::string HostPortTable(const std::string& instance);

// Ports of an earlier run stay.
absl::Status PrepareHostPorts(const std::string& instance, const RootGuard& guard = {});
// After EnsureUplink: the route to the Pod decides how answers come back.
absl::Status EnsureHostPorts(const std::string& instance, const HostPortSpec& spec);
// kFailedPrecondition with the first difference.
absl::Status CheckHostPorts(const std::string& instance, const HostPortSpec& spec);
absl::Status RemoveHostPorts(const std::string& instance, const std::string& pod_key);
// Packets that the table refused, by reason: "martian" (127.0.0.0/8 from a device), "spoofed" (a source that the Pod
// behind this uplink does not have), "link_address" (from a Pod to one), "agent_port" (from a Pod to heterod's port)
// and "agent_flood" (new connections to it beyond what it can bear). They grow as long as the table is there.
absl::StatusOr<std::map<std::string, uint64_t>> ReadRefusedInRoot(const std::string& instance);
// Global addresses of this namespace; not those of links to Pods, nor the Services' that kube-proxy has on a device of
// its own with IPVS: hundreds, and no caller means the Node by one.
absl::StatusOr<std::vector<IpAddress>> NodeAddresses();

}  // namespace heterok8s::podnet
