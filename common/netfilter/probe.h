// What this kernel's nftables can do, asked once per process.
//
// Threading: any thread. Ownership: none kept. Errors: kPermissionDenied without CAP_NET_ADMIN.
//
//   HK_ASSIGN_OR_RETURN(bool has_socket_match, HasSocketMatch());
#pragma once

#include "common/status/status.h"

namespace heterok8s::netfilter {

// `socket wildcard`: a packet is matched by the socket that would receive it (CONFIG_NFT_SOCKET, kernel >= 5.10).
absl::StatusOr<bool> HasSocketMatch();

}  // namespace heterok8s::netfilter
