// HostEngine: ADD.
#include <fmt/format.h>

#include <absl/cleanup/cleanup.h>
#include <spdlog/spdlog.h>

#include "common/fault/fault.h"
#include "node-agent/attach/host_engine.h"
#include "node-agent/attach/requests.h"

namespace heterok8s::attach {
namespace {

// The kernel's work queues take milliseconds, seconds when hundreds of interfaces come and go at once.
constexpr std::chrono::seconds kLinkTimeout{15};

// A transaction that stops before it writes, so that what is in the way can be cleared first.
absl::Status SomethingInTheWay() { return absl::AbortedError("another attachment is in the way"); }

// A Pod has one attachment at a time there: another is of an earlier sandbox.
bool SamePlace(const Attachment& a, const Attachment& b) {
  return a.key.network == b.key.network && a.key.ifname == b.key.ifname;
}

absl::Status NoLease(const LeaseState& lease) {
  std::string why = lease.last_error.empty() ? "" : ": " + lease.last_error;
  return cni::MakeError(
      cni::kDpuUnavailable,
      lease.age.has_value()
          ? fmt::format("the DPU's heterod at {} has not answered for {} ms{}", lease.address, lease.age->count(), why)
          : fmt::format("the DPU's heterod at {} has never answered{}", lease.address, why));
}

}  // namespace

absl::StatusOr<cni::Result> HostEngine::Add(const cni::Request& request) {
  HK_RETURN_IF_ERROR(WithCode(Ready(), absl::StatusCode::kUnavailable, cni::kTryAgainLater));
  HK_RETURN_IF_ERROR(CheckAdd(request));
  Job job{.request = request, .row = RowOf(request)};
  HK_ASSIGN_OR_RETURN(job.details, DetailsOf(request, DefaultMtu()));
  if (ipam_.is_delegated(request)) {
    job.details.delegated_stdin = request.stdin_text;
    job.details.delegated_environment = request.environment;
  }

  HK_ASSIGN_OR_RETURN(KeyedMutex::Guard guard, Lock(job.row.pod_key));
  HK_ASSIGN_OR_RETURN(Placement placement, PlacementNow(request, job.row));
  job.row.mode = placement.split ? ledger::Mode::kSplit : ledger::Mode::kOrdinary;
  job.details.placement_reason = placement.reason;
  HK_RETURN_IF_ERROR(Annotate(Admit(job), Describe(request)));
  // From here on there is a row: whatever happens below is undone by it.
  absl::Cleanup undo = [&] {
    absl::Status undone = Detach(job.row);
    if (!undone.ok()) {
      spdlog::warn("{}: undo: {}; leaving the rest to DEL, GC or the next start", Describe(request), Message(undone));
    }
  };
  HK_FAULT_POINT("host.add.after-ledger");
  absl::Status allocated = AllocateByPlugin(job);
  if (!allocated.ok()) return Annotate(allocated, Describe(request));
  absl::StatusOr<cni::Result> result = job.row.mode == ledger::Mode::kSplit ? AddSplit(job) : AddOrdinary(job);
  if (!result.ok()) return Annotate(result.status(), Describe(request));
  HK_FAULT_POINT("host.add.before-result");
  std::move(undo).Cancel();
  return result;
}

absl::StatusOr<Placement> HostEngine::PlacementNow(const cni::Request& request, const Attachment& wanted) {
  HK_ASSIGN_OR_RETURN(Placement placement, DecidePlacement(request.config));
  if (!placement.split) return placement;
  HK_ASSIGN_OR_RETURN(std::vector<Attachment> of_pod, journal_.OfPod(wanted.pod_key));
  for (const Attachment& row : of_pod) {
    if (row.mode != ledger::Mode::kSplit || SamePlace(row, wanted)) continue;
    return Placement{false, fmt::format("the Pod is split over its interface {}", row.key.ifname)};
  }
  if (!request.config.requested_mac.empty()) {
    return cni::MakeError(cni::kUnsupportedField,
                          fmt::format("runtimeConfig.mac '{}': the interface of a split Pod has a derived address",
                                      request.config.requested_mac));
  }
  LeaseState lease = peer_.lease();
  if (lease.valid && lease.peer_ready) return placement;
  if (!options_.unsplit_when_dpu_down) return NoLease(lease);
  return Placement{false, fmt::format("{}, but {}", placement.reason, Message(NoLease(lease)))};
}

// Writes the row, after whatever an earlier call has left for this Pod is out of the way.
absl::Status HostEngine::Admit(Job& job) {
  for (bool cleared = false;; cleared = true) {
    std::vector<Attachment> in_the_way;
    std::optional<ledger::Tombstone> tombstone;
    absl::Status written = journal_.Write(
        [&](ledger::Tx& tx) -> absl::Status {
          HK_ASSIGN_OR_RETURN(in_the_way, InTheWay(tx, job));
          if (job.row.mode == ledger::Mode::kSplit) {
            HK_ASSIGN_OR_RETURN(tombstone, tx.FindTombstone(job.row.pod_key));
          }
          return in_the_way.empty() && !tombstone.has_value() ? WriteRow(tx, job) : SomethingInTheWay();
        },
        // Not synced: without this kernel the row is worthless, and the DPU has not heard of it yet.
        Durability::kOrdered);
    const bool free = in_the_way.empty() && !tombstone.has_value();
    if (free || cleared) return written;
    for (const Attachment& row : in_the_way) HK_RETURN_IF_ERROR(ClearAway(row, job));
    if (job.row.mode != ledger::Mode::kSplit) continue;
    HK_ASSIGN_OR_RETURN(tombstone, journal_.TombstoneOf(job.row.pod_key));  // clearing may have left one
    if (tombstone.has_value()) HK_RETURN_IF_ERROR(RemoveEarlierHalf(*tombstone));
  }
}

// The DPU may still have a half of this Pod's last attach. It goes before the new link is made: both bear the same tag.
absl::Status HostEngine::RemoveEarlierHalf(const ledger::Tombstone& tombstone) {
  absl::Status removed = peer_.Remove({.pod_key = tombstone.pod_key, .generation = tombstone.generation});
  if (!removed.ok()) {
    return cni::MakeError(cni::kDpuUnavailable, fmt::format("remove the DPU half of generation {} first: {}",
                                                            tombstone.generation, Message(removed)));
  }
  return SettleLocked(tombstone);
}

absl::StatusOr<std::vector<Attachment>> HostEngine::InTheWay(ledger::Tx& tx, const Job& job) {
  std::vector<Attachment> in_the_way;
  HK_ASSIGN_OR_RETURN(std::optional<Attachment> same, tx.FindAttachment(job.row.key));
  if (same.has_value()) in_the_way.push_back(*same);
  HK_ASSIGN_OR_RETURN(std::vector<Attachment> of_pod, tx.AttachmentsOfPod(job.row.pod_key));
  for (const Attachment& row : of_pod) {
    if (row.key == job.row.key || row.mode == ledger::Mode::kTwin) continue;
    if (SamePlace(row, job.row)) in_the_way.push_back(row);
  }
  return in_the_way;
}

absl::Status HostEngine::ClearAway(const Attachment& row, const Job& job) {
  if (row.key == job.row.key && row.state == ledger::State::kCommitted && row.netns_path == job.row.netns_path) {
    // The runtime may have made a new namespace at the same path without a DEL for the old one; the kernel knows.
    HK_ASSIGN_OR_RETURN(Details details, Details::Parse(row.details));
    absl::Status wired = row.mode == ledger::Mode::kSplit ? podnet_.CheckLink(LinkSpecOf(identity_, row, details))
                                                          : podnet_.CheckUplink(UplinkSpecOf(identity_, row, details));
    if (wired.ok()) {
      return cni::MakeError(cni::kInterfaceExists, fmt::format("container {} has interface {} of network {} already",
                                                               row.key.container_id, row.key.ifname, row.key.network));
    }
  }
  if (row.pod_key == job.row.pod_key) return Detach(row);
  HK_ASSIGN_OR_RETURN(KeyedMutex::Guard guard, Lock(row.pod_key));
  return Detach(row);
}

absl::Status HostEngine::WriteRow(ledger::Tx& tx, Job& job) {
  HK_ASSIGN_OR_RETURN(job.row.generation, tx.NextGeneration());
  if (!ipam_.is_delegated(job.request)) {
    HK_ASSIGN_OR_RETURN(ipam::Lease lease, ipam_.Allocate(tx, job.request, job.details.owner));
    HK_RETURN_IF_ERROR(TakeLease(job.row.pod_key, job.details, lease, job.request.config));
  }
  if (job.row.mode == ledger::Mode::kSplit) {
    const IpPrefix range = options_.link_range.Masked();
    absl::StatusOr<IpAddress> block =
        tx.ClaimNext(kLinkNetwork, range.address.Plus(4), range.Last(), job.row.pod_key, 4);
    if (!block.ok()) return WithCode(block.status(), absl::StatusCode::kResourceExhausted, cni::kAddressExhausted);
    job.details.join = Join{.generation = job.row.generation,
                            .addresses = LinkBlock(*block),
                            .host_ephemeral = options_.host_ephemeral,
                            .dpu_ephemeral = options_.dpu_ephemeral};
  }
  job.row.details = job.details.ToText();
  return tx.PutAttachment(job.row);
}

absl::Status HostEngine::AllocateByPlugin(Job& job) {
  if (!ipam_.is_delegated(job.request)) return absl::OkStatus();
  HK_ASSIGN_OR_RETURN(ipam::Lease lease, ipam_.DelegateAdd(job.request));
  absl::Status taken = TakeLease(job.row.pod_key, job.details, lease, job.request.config);
  job.row.details = job.details.ToText();
  HK_FAULT_POINT("host.add.after-delegate");
  HK_RETURN_IF_ERROR(journal_.Put(job.row, Durability::kOrdered));
  return taken;
}

absl::Status HostEngine::TakeLease(const std::string& pod_key, Details& details, const ipam::Lease& lease,
                                   const cni::NetworkConfig& config) {
  SetLease(details, lease.ips, lease.routes, lease.dns, config.dns);
  SetMasquerade(details, lease.subnets, config);
  // A Pod that does not reach everything still answers its Node, whose probes come from addresses of no Pod network: by
  // its first interface, where the rest of its answers go.
  std::vector<IpAddress> node;
  auto is_default = [](const cni::Route& route) { return route.dst.length == 0; };
  const bool first = details.owner == pod_key;
  if (first && !std::all_of(lease.routes.begin(), lease.routes.end(), is_default)) {
    HK_ASSIGN_OR_RETURN(node, podnet_.NodeAddresses());
  }
  return SetPodRoutes(details, lease.subnets, node);
}

absl::StatusOr<cni::Result> HostEngine::AddOrdinary(Job& job) {
  // The row goes to the disk while the kernel works. All that changes in it later is "committed", and that is a word
  // about this kernel's objects: a power cut takes them away, and the next start drops the row whatever it says.
  Workers::Running<absl::Status> synced = workers_.Start([this] { return journal_.Sync(); });
  podnet::UplinkSpec spec = UplinkSpecOf(identity_, job.row, job.details);
  absl::StatusOr<podnet::Uplink> uplink = podnet_.EnsureUplink(spec);
  if (!uplink.ok()) {
    return WithCode(WithCode(uplink.status(), absl::StatusCode::kAlreadyExists, cni::kInterfaceExists),
                    absl::StatusCode::kNotFound, cni::kInvalidNetns);
  }
  HK_FAULT_POINT("host.add.after-uplink");
  HK_RETURN_IF_ERROR(TakeHostPorts(job.details));
  HK_FAULT_POINT("host.add.after-host-ports");
  job.row.state = ledger::State::kCommitted;
  HK_RETURN_IF_ERROR(journal_.Put(job.row, Durability::kOrdered));
  HK_RETURN_IF_ERROR(synced.Get());
  return ResultOf(
      job.details,
      {{.name = uplink->root_ifname, .mac = uplink->root_mac, .mtu = job.details.mtu},
       {.name = job.row.key.ifname, .mac = uplink->mac, .sandbox = job.row.netns_path, .mtu = job.details.mtu}},
      1);
}

absl::StatusOr<cni::Result> HostEngine::AddSplit(Job& job) {
  absl::StatusOr<sys::NetnsRef> ns = namespaces_.Open(job.row.netns_path);
  if (!ns.ok()) return cni::MakeError(cni::kInvalidNetns, Message(ns.status()));
  const int max_mtu = backend_.caps().max_mtu;
  if (max_mtu != 0 && job.details.mtu > max_mtu) {
    return cni::MakeError(cni::kInvalidConfig, fmt::format("mtu {} is more than the link to the DPU carries ({})",
                                                           job.details.mtu, max_mtu));
  }
  // The row goes to the disk while both kernels work, and is there before Commit: only then does the DPU lead packets
  // to the addresses that it holds. A power cut before may take the row; Start() sees to it that its generation does
  // not come back, and the DPU is told by the next Sync that the half is nobody's.
  Workers::Running<absl::Status> synced = workers_.Start([this] { return journal_.Sync(); });
  absl::Status here;
  HK_ASSIGN_OR_RETURN(PrepareReply prepared,
                      PrepareDpuHalf(job.row, job.details, [&] { here = ReadyHostHalf(job.row, job.details); }));
  HK_FAULT_POINT("host.add.after-prepare");
  HK_RETURN_IF_ERROR(here);

  // Not before the DPU's half is there: a back end may then make the other end where it belongs.
  absl::StatusOr<pu::LinkEnd> end = backend_.AcquireLink(
      TagOf(identity_, job.row), {.mtu = job.details.mtu, .netns = &*ns, .ifname = job.row.key.ifname});
  if (!end.ok()) return WithCode(end.status(), absl::StatusCode::kAlreadyExists, cni::kInterfaceExists);
  HK_FAULT_POINT("host.add.after-link");
  HK_RETURN_IF_ERROR(synced.Get());

  // Either commit may fail alone: then everything is undone; or a crash leaves one of them, and Resync or Start finds
  // it.
  Attachment committed = job.row;
  committed.state = ledger::State::kCommitted;
  absl::Status dpu = CommitDpuHalf(job.row, [&] { here = CommitHostHalf(committed, job.details); });
  HK_RETURN_IF_ERROR(here);
  job.row = committed;
  HK_RETURN_IF_ERROR(dpu);
  // Both ends are up: what the kernel does of itself now is done when we answer, so a Pod's first packet is not lost.
  HK_RETURN_IF_ERROR(podnet_.AwaitLink(LinkSpecOf(identity_, job.row, job.details), kLinkTimeout));
  HK_FAULT_POINT("host.add.after-commit");
  return ResultOf(
      job.details,
      {{.name = job.row.key.ifname, .mac = end->mac, .sandbox = job.row.netns_path, .mtu = job.details.mtu},
       // The Pod's port on the DPU: a device of that kernel, so it has no sandbox here.
       {.name = pu::InterfaceName(TagOf(identity_, job.row), 'u'), .mac = prepared.uplink_mac, .mtu = job.details.mtu}},
      0);
}

// What needs no link: while the DPU makes the place for its half.
absl::Status HostEngine::ReadyHostHalf(const Attachment& row, const Details& details) {
  const podnet::LinkSpec link = LinkSpecOf(identity_, row, details);
  HK_RETURN_IF_ERROR(podnet_.EnsureGuards(link));
  HK_FAULT_POINT("host.add.after-guards");
  if (!ports_.features().needs_link()) HK_RETURN_IF_ERROR(TakePorts(row, details, link));
  return TakeHostPorts(details);
}

// The rest, and the row: while the DPU does the same.
absl::Status HostEngine::CommitHostHalf(const Attachment& row, const Details& details) {
  const podnet::LinkSpec link = LinkSpecOf(identity_, row, details);
  HK_RETURN_IF_ERROR(podnet_.EnsureLink(link, podnet::Guards::kAreThere));
  HK_FAULT_POINT("host.add.after-wire");
  if (ports_.features().needs_link()) HK_RETURN_IF_ERROR(TakePorts(row, details, link));
  table_.SetJoined(row.pod_key, row.generation);
  // The row is on disk. That it is committed now is a word about this kernel's objects, as in
  // AddOrdinary: after a power cut every row is undone, on both PUs, whatever it says.
  return journal_.Put(row, Durability::kOrdered);
}

// All of it at once, of a Pod that may be running: everything on this PU but the link device and the row.
absl::Status HostEngine::WireHostHalf(const Attachment& row, const Details& details) {
  const podnet::LinkSpec link = LinkSpecOf(identity_, row, details);
  HK_RETURN_IF_ERROR(podnet_.EnsureLink(link, podnet::Guards::kEnsure));
  HK_RETURN_IF_ERROR(TakePorts(row, details, link));
  HK_RETURN_IF_ERROR(TakeHostPorts(details));
  table_.SetJoined(row.pod_key, row.generation);
  return absl::OkStatus();
}

absl::Status HostEngine::TakePorts(const Attachment& row, const Details& details, const podnet::LinkSpec& link) {
  table_.SetLink(link);  // AddPod reports the sockets there are, and their ports are steered over this link
  HK_RETURN_IF_ERROR(ports_.AddPod(PodPortsOf(identity_, row, details)));
  HK_FAULT_POINT("host.add.after-ports");
  return absl::OkStatus();
}

absl::Status HostEngine::TakeHostPorts(const Details& details) {
  podnet::HostPortSpec spec = HostPortSpecOf(identity_, details);
  if (spec.empty()) return absl::OkStatus();
  absl::Status taken = podnet_.EnsureHostPorts(spec);
  std::optional<std::string> holder = podnet::HostPortHolder(taken);
  if (!holder.has_value()) return taken;
  // The kernel's table knows Pods by their UID only; people know them by name.
  std::string text = Message(taken);
  HK_ASSIGN_OR_RETURN(std::vector<Attachment> rows, journal_.All());
  for (const Attachment& row : rows) {
    if (row.pod_name.empty() || OwnerOf(row.pod_key, row.key.ifname) != *holder) continue;
    const std::string by_uid = "by Pod " + *holder;
    const size_t at = text.find(by_uid);
    if (at == std::string::npos) break;
    text.replace(at, by_uid.size(), fmt::format("by Pod {}/{} (UID {})", row.pod_namespace, row.pod_name, row.pod_key));
    break;
  }
  return cni::MakeError(cni::kHostPortTaken, text + "; remove that Pod, or choose another hostPort or hostIP");
}

// The host ports that the DPU can translate before their packets reach this PU.
absl::StatusOr<std::vector<podnet::HostPort>> HostEngine::HostPortsForDpu(const Details& details) {
  std::vector<podnet::HostPort> ports;
  if (details.host_ports.empty()) return ports;
  HK_ASSIGN_OR_RETURN(std::vector<IpAddress> ours, podnet_.NodeAddresses());
  for (const podnet::HostPort& port : details.host_ports) {
    for (const IpAddress& address : ours) {
      const bool here = !port.host_ip || *port.host_ip == address ||
                        (port.host_ip->is_unspecified() && port.host_ip->family == address.family);
      if (!here) continue;
      ports.push_back(port);
      ports.back().host_ip = address;
    }
  }
  return ports;
}

absl::StatusOr<PrepareReply> HostEngine::PrepareDpuHalf(const Attachment& row, const Details& details,
                                                        const Meanwhile& meanwhile) {
  const Join& join = *details.join;
  HK_ASSIGN_OR_RETURN(std::vector<podnet::HostPort> host_ports, HostPortsForDpu(details));
  absl::StatusOr<PrepareReply> reply = peer_.Prepare({.pod_key = row.pod_key,
                                                      .generation = row.generation,
                                                      .instance = options_.instance,
                                                      .network = row.key.network,
                                                      .container_id = row.key.container_id,
                                                      .ifname = row.key.ifname,
                                                      .pod_namespace = row.pod_namespace,
                                                      .pod_name = row.pod_name,
                                                      .addresses = details.addresses,
                                                      .routes = details.pod_routes,
                                                      .link = join.addresses,
                                                      .host_ephemeral = join.host_ephemeral,
                                                      .dpu_ephemeral = join.dpu_ephemeral,
                                                      .mtu = details.mtu,
                                                      .bandwidth = details.bandwidth,
                                                      .masquerade_outside = details.masquerade_outside,
                                                      .host_ports = std::move(host_ports)},
                                                     meanwhile);
  if (!reply.ok()) {
    absl::Status failed = Annotate(reply.status(), "prepare the DPU half");
    return UnavailableDpu(failed);
  }
  return reply;
}

absl::Status HostEngine::UnavailableDpu(const absl::Status& status) {
  return WithCode(WithCode(status, absl::StatusCode::kUnavailable, cni::kDpuUnavailable),
                  absl::StatusCode::kDeadlineExceeded, cni::kDpuUnavailable);
}

absl::Status HostEngine::CommitDpuHalf(const Attachment& row, const Meanwhile& meanwhile) {
  absl::Status done = peer_.Commit({.pod_key = row.pod_key, .generation = row.generation}, meanwhile);
  return UnavailableDpu(Annotate(done, "commit the DPU half"));
}

}  // namespace heterok8s::attach
