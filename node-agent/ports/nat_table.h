// The table `inet heterok8s_nat` of a split Pod: direct calls where BPF cannot make them.
//
// Purpose: a call to localhost or the Pod IP whose port the other PU owns leaves for a link address and comes back from
// it, so that both programs see the names they would see on one kernel. Pure text: placeholder_ports.cc runs it.
// Threading: pure functions. Errors: none.
//
//   caller:  OUTPUT  127.0.0.1:p → peer's localhost address      POSTROUTING  127.0.0.1 → own localhost address
//   owner:   PREROUTING  own localhost address → 127.0.0.1       INPUT  peer's localhost address → 127.0.0.1
// and the same for the Pod IP over the other pair. IPv6 the same, but for ::1: the kernel accepts no ::1 from a real
// device, so calls to it are refused.
//
// Running the script again rebuilds the rules and keeps the elements of the sets, which outlive a heterod.
#pragma once

#include <string>

#include "node-agent/ports/ports.h"

namespace heterok8s::ports {

inline constexpr char kNatTable[] = "inet heterok8s_nat";
inline constexpr char kNatTableName[] = "heterok8s_nat";

// The other PU's ports by the name under which they can be called, `inet_proto . inet_service`.
inline constexpr const char* kNatSets[] = {"localhost_ports", "pod_ports", "localhost6_ports", "pod6_ports"};
enum NatSet { kNatLocalhost, kNatPod, kNatLocalhost6, kNatPod6, kNatSetCount };

// `link_ifname`: the device that has this side's link addresses.
std::string NatTableScript(const PodPorts& pod, const std::string& link_ifname);
std::string RemoveNatTableScript();

}  // namespace heterok8s::ports
