#include "node-agent/attach/orphans.h"

#include <spdlog/spdlog.h>

#include <set>

#include "node-agent/attach/undo.h"

namespace heterok8s::attach {

absl::Status RemoveOrphans(const Identity& identity, const std::vector<ledger::Attachment>& live,
                           podnet::PodNet& podnet, pu::Backend& backend, ports::Ports& ports) {
  std::set<pu::OwnerTag> owners;
  std::set<std::string> split_pods;
  for (const ledger::Attachment& row : live) {
    owners.insert(TagOf(identity, row));
    split_pods.insert(row.pod_key);
  }
  FirstError failed;
  HK_ASSIGN_OR_RETURN(std::vector<pu::OwnerTag> uplinks, podnet.ListUplinks());
  for (const pu::OwnerTag& tag : uplinks) {
    if (tag.instance != identity.instance || owners.contains(tag)) continue;
    spdlog::warn("uplink {} belongs to no attachment: removing it", tag.ToAlias());
    failed.Add(podnet.RemoveUplink(tag, ""));
    failed.Add(podnet.RemoveHostPorts(OwnerOf(tag.pod_key, tag.ifname)));
  }
  // On the DPU a link end in the root namespace may be one that the host has just made; the host takes it away if not.
  if (identity.side == pu::Side::kHost) {
    HK_ASSIGN_OR_RETURN(std::vector<pu::OwnerTag> links, backend.ListLinks());
    for (const pu::OwnerTag& tag : links) {
      if (tag.instance != identity.instance || owners.contains(tag)) continue;
      spdlog::warn("link {} belongs to no attachment: removing it", tag.ToAlias());
      failed.Add(backend.ReleaseLink(tag, nullptr));
      failed.Add(podnet.RemoveHostPorts(OwnerOf(tag.pod_key, tag.ifname)));
    }
  }
  for (const std::string& pod_key : ports.ListPods()) {
    if (!split_pods.contains(pod_key)) failed.Add(ports.RemovePod(pod_key));
  }
  return failed.status();
}

}  // namespace heterok8s::attach
