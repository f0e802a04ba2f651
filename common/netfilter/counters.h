// The named counters of an nft table, without libnftables.
//
// Purpose: read for each Pod that goes. libnftables would read and parse the whole table for it, one caller at a time.
// Threading: any thread; reads in the network namespace that it is in. Ownership: its socket, and with it the
// namespace, stays open up to 200 ms longer; see reaper.h for why. Errors: kNotFound when there is no such table or it
// has no counter; kDeadlineExceeded when the kernel is silent for two seconds.
//
//   HK_ASSIGN_OR_RETURN(auto counters, ReadCounters("heterok8s"));
//   counters["spoofed"].packets;
#pragma once

#include <map>
#include <string>

#include "common/netfilter/nft.h"
#include "common/status/status.h"

namespace heterok8s::netfilter {

// `table`: of family inet, its name alone.
absl::StatusOr<std::map<std::string, NftCounter>> ReadCounters(const std::string& table);

}  // namespace heterok8s::netfilter
