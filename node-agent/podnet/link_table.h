// The table `inet heterok8s` of a split Pod, as an nft script per side.
//
// Purpose: decide for every packet of the Pod which PU it belongs to, and refuse what can only be forged. Pure text:
// link.cc runs it (netfilter::RunScript, whose words it keeps to), link_check.cc has libnftables read it.
// ARCHITECTURE.md "Life of a packet" is the same in words. Threading: pure functions. Errors: none.
//
// Running the script again rebuilds all rules in one transaction and keeps the set `dpu_ports` and the counters as
// they are, so packets never see a moment without rules or without port owners.
//
//   HK_RETURN_IF_ERROR(netfilter::RunScript(LinkTableScript(spec, probed)));
#pragma once

#include <string>

#include "node-agent/podnet/podnet.h"

namespace heterok8s::podnet {

inline constexpr char kPodTable[] = "inet heterok8s";
inline constexpr char kPodTableName[] = "heterok8s";
inline constexpr char kPortSet[] = "dpu_ports";
// fwmark and connmark of what belongs to the other side of the link; the rule at preference 10 routes it there.
inline constexpr uint32_t kOtherSideMark = 0x10;
inline constexpr uint32_t kOtherSideTable = 100;

// Named counters of the table, both sides (a side that never counts one shows zero).
inline constexpr char kCountMartian[] = "martian";             // 127.0.0.0/8 from a real device
inline constexpr char kCountSpoofed[] = "spoofed";             // a source that this device cannot have
inline constexpr char kCountLinkAddress[] = "link_address";    // a link address on any other device
inline constexpr char kCountForeignPort[] = "foreign_port";    // for a port of the other side; dropped, no RST
inline constexpr char kCountForeignReset[] = "foreign_reset";  // an RST or port unreachable this side must not send

std::string LinkTableScript(const LinkSpec& spec, bool has_socket_match);
std::string RemoveLinkTableScript();

}  // namespace heterok8s::podnet
