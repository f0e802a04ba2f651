// The "ipam" part of a network configuration, as our own allocator understands it.
//
// Purpose: the keys of host-local (subnet, rangeStart, rangeEnd, gateway, ranges, routes, resolvConf) with its meaning,
// and the capability ipRanges. dataDir is accepted and ignored: the ledger keeps the state.
// Threading: pure functions. Errors: kInvalidConfig (CNI code) that names the key.
//
//   HK_ASSIGN_OR_RETURN(IpamConfig config, ParseIpamConfig(request.config));
#pragma once

#include <string>
#include <vector>

#include "common/cni/types.h"

namespace heterok8s::ipam {

struct Range {
  IpPrefix subnet;        // masked
  IpAddress first, last;  // what may be handed out, inclusive, but for:
  IpAddress gateway;      // never handed out; the subnet's first address unless the configuration says otherwise

  bool Holds(const IpAddress& address) const;  // between first and last, and not the gateway
};

using RangeSet = std::vector<Range>;  // a Pod gets one address of each set, of the first range that has one free

struct IpamConfig {
  std::vector<RangeSet> sets;
  std::vector<cni::Route> routes;
  cni::Dns dns;  // resolvConf, else the configuration's "dns"
};

absl::StatusOr<IpamConfig> ParseIpamConfig(const cni::NetworkConfig& config);

// nameserver, domain, search and options lines of resolv.conf(5).
cni::Dns ParseResolvConf(const std::string& text);

}  // namespace heterok8s::ipam
