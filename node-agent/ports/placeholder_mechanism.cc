#include "node-agent/ports/placeholder_mechanism.h"

#include <spdlog/spdlog.h>

#include "common/netfilter/libnftables_nft.h"
#include "common/sys/netns.h"
#include "node-agent/ports/nat_table.h"
#include "node-agent/ports/placeholder_ports.h"

namespace heterok8s::ports {

absl::StatusOr<std::unique_ptr<Ports>> NewPorts(Mechanism mechanism, Options options, Listener listener) {
  if (mechanism != Mechanism::kPlaceholder) {
    absl::StatusOr<std::unique_ptr<Ports>> bpf = NewBpfPorts(options, listener);
    bool lacking = absl::IsUnimplemented(bpf.status());
    if (!lacking || mechanism == Mechanism::kBpf) return bpf;
    spdlog::warn("ports: {}; using placeholder sockets and NAT instead", Message(bpf.status()));
  }
  return NewPlaceholderPorts(std::move(options), std::move(listener));
}

absl::Status RemovePlaceholderNat(const std::string& netns_path) {
  absl::StatusOr<sys::NetnsRef> ns = sys::NetnsRef::Open(netns_path);
  if (absl::IsNotFound(ns.status())) return absl::OkStatus();
  HK_RETURN_IF_ERROR(ns.status());
  return sys::InNetns(*ns, [&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(std::unique_ptr<netfilter::Nft> nft, netfilter::OpenNft());
    return nft->Run(RemoveNatTableScript());
  });
}

}  // namespace heterok8s::ports
