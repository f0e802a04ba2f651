// What the engines keep in ledger::Attachment::details, and the kernel specs that follow from a row.
//
// Purpose: a row alone says everything that Ensure…, Check… and Remove… need, so that undoing and redoing never depend
// on what the runtime passes. Stored as JSON with the fields below by name; a field with its default value is left out.
// Threading: values. Errors: kDataLoss when a row's text is not ours.
//
//   HK_ASSIGN_OR_RETURN(Details details, Details::Parse(row.details));
//   HK_RETURN_IF_ERROR(podnet.EnsureLink(LinkSpecOf(identity, row, details, pu::Side::kHost)));
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/cni/types.h"
#include "node-agent/ledger/ledger.h"
#include "node-agent/podnet/podnet.h"
#include "node-agent/ports/ports.h"
#include "node-agent/pu/backend.h"

namespace heterok8s::attach {

// The link between a Pod's halves.
struct Join {
  uint64_t generation = 0;
  bool committed = false;
  podnet::LinkAddresses addresses;
  podnet::PortRange host_ephemeral, dpu_ephemeral;
};

struct Details {
  std::string owner;  // of the Pod's addresses in the ledger and of its host ports: see OwnerOf
  std::string placement_reason;
  std::vector<IpAddress> addresses;
  std::vector<cni::ResultIp> ips;            // as IPAM gave them; without `interface`
  std::vector<cni::Route> routes;            // of the result
  std::vector<podnet::PodRoute> pod_routes;  // of the Pod's namespace, on both PUs; empty: the default routes
  cni::Dns dns;
  int mtu = 0;      // bytes
  std::string mac;  // asked for by the runtime, else empty
  std::optional<podnet::Bandwidth> bandwidth;
  std::vector<podnet::HostPort> host_ports;  // on the DPU: on addresses of the host
  std::vector<IpPrefix> masquerade_outside;  // see podnet::HostPortSpec
  std::optional<Join> join;                  // of a split Pod; of a twin once the host has prepared it
  std::string own_netns;                     // DPU: the namespace that this heterod made and must remove
  // Delegated IPAM: what the plugin was called with, for the DEL that may come from GC or after a crash.
  std::string delegated_stdin;
  std::map<std::string, std::string> delegated_environment;

  static absl::StatusOr<Details> Parse(const std::string& text);
  std::string ToText() const;
};

// Of a row that is undone: where its details cannot be read, by what its columns say.
Details DetailsOrColumns(const ledger::Attachment& row);

// The Pod's addresses belong to its key; those of a second interface are told apart by its name.
std::string OwnerOf(const std::string& pod_key, const std::string& ifname);

// What is the same for all Pods of this heterod.
struct Identity {
  std::string instance;  // pu::OwnerTag.instance
  pu::Side side = pu::Side::kHost;
};

pu::OwnerTag TagOf(const Identity& identity, const ledger::Attachment& row);
podnet::UplinkSpec UplinkSpecOf(const Identity& identity, const ledger::Attachment& row, const Details& details);
// details.join must be there for these two.
podnet::LinkSpec LinkSpecOf(const Identity& identity, const ledger::Attachment& row, const Details& details);
ports::PodPorts PodPortsOf(const Identity& identity, const ledger::Attachment& row, const Details& details);
// What a split Pod sends leaves by the DPU, so that is where its masquerading is.
podnet::HostPortSpec HostPortSpecOf(const Identity& identity, const Details& details);

// The link's name in pod-d. In pod-h it has the name the runtime asked for, because there it is the Pod's interface.
inline constexpr char kDpuLinkName[] = "xpu0";

// The four link addresses of the block that starts at `base`.
podnet::LinkAddresses LinkBlock(const IpAddress& base);

}  // namespace heterok8s::attach
