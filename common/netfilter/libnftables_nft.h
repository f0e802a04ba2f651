// The kernel's nftables through libnftables.
//
// Purpose, errors: see nft.h. Threading: as nft.h; instances on different threads work at the same time. Ownership: the
// caller's.
// Needs libnftables 1.0 and CAP_NET_ADMIN in the namespace.
//
//   HK_RETURN_IF_ERROR(sys::InNetns(pod, [&]() -> absl::Status {
//     HK_ASSIGN_OR_RETURN(std::unique_ptr<Nft> nft, OpenNft());
//     return nft->Run(script);
//   }));
#pragma once

#include <memory>

#include "common/netfilter/nft.h"

namespace heterok8s::netfilter {

absl::StatusOr<std::unique_ptr<Nft>> OpenNft();

}  // namespace heterok8s::netfilter
