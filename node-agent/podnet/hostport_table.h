// The host port table as values and as an nft script.
//
// Purpose: what a HostPortSpec wants in the table, how that differs from what is there, and the script that makes the
// difference. Pure; hostports.cc runs it.
// Threading: pure functions. Errors: kAlreadyExists when a wanted port is another Pod's.
//
//   HK_ASSIGN_OR_RETURN(HostPortChange change, PlanHostPorts(table, present, spec, routed));
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/netfilter/nft.h"
#include "node-agent/podnet/podnet.h"

namespace heterok8s::podnet {

// Elements by set or map name.
using HostPortElements = std::map<std::string, std::vector<netfilter::NftElement>>;

// Devices on which route_localnet was switched on for host ports: see loopback_ways.h. Of no Pod.
inline constexpr char kLocalnetSet[] = "localnet";

// Names of all sets and maps of the table that hold what Pods have.
const std::vector<std::string>& HostPortSets();

std::string HostPortTableScript(const std::string& table, const RootGuard& guard);

struct HostPortChange {
  std::string script;              // empty: nothing to do
  std::vector<HostPort> affected;  // ports that got or lost their owner
};
// `masquerade`: the Pod's answers do not come back through this namespace by themselves.
absl::StatusOr<HostPortChange> PlanHostPorts(const std::string& table, const HostPortElements& present,
                                             const HostPortSpec& spec, bool masquerade);

// True when 127.0.0.1:hostPort, or [::1]:hostPort, is to work for one of the ports.
bool ServesLoopback(const HostPortSpec& spec, Family family);

}  // namespace heterok8s::podnet
