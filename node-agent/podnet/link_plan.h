// What a LinkSpec means in terms of routing netlink and sysctls: the wanted state as values.
//
// Purpose: EnsureLink applies it, CheckLink compares with it, RemoveLink takes it away, so the three cannot disagree.
// Threading: pure functions. Errors: none.
//
//   LinkPlan plan = PlanLink(spec, device.index);
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "common/netlink/types.h"
#include "node-agent/podnet/podnet.h"

namespace heterok8s::podnet {

struct LinkPlan {
  std::vector<netlink::Address> addresses;  // on the link, in the order programs see them: the Pod's first
  std::vector<netlink::Neighbor> neighbors;
  std::vector<netlink::Route> routes;  // tables main and kOtherSideTable
  std::vector<netlink::Rule> rules;
  std::vector<netlink::Rule> absent_rules;                          // the kernel's own that must go
  std::vector<std::pair<std::string, std::string>> sysctls;         // of the namespace
  std::vector<std::pair<std::string, std::string>> uplink_sysctls;  // of the DPU's uplink
};

LinkPlan PlanLink(const LinkSpec& spec, int link_index);

// Those of the plan's sysctls that are the same for every DPU half.
std::vector<std::pair<std::string, std::string>> DpuNetnsSysctls();

// The kernel's defaults for those of the plan's sysctls that would mislead a Pod that is not split any more.
std::vector<std::pair<std::string, std::string>> UnsplitSysctls(const LinkSpec& spec);

}  // namespace heterok8s::podnet
