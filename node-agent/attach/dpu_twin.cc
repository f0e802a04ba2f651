// DpuEngine: the sandboxes of the DPU's own runtime.
#include <fmt/format.h>

#include <absl/cleanup/cleanup.h>
#include <spdlog/spdlog.h>

#include "common/fault/fault.h"
#include "node-agent/attach/dpu_engine.h"
#include "node-agent/attach/placement.h"
#include "node-agent/attach/requests.h"
#include "node-agent/attach/undo.h"

namespace heterok8s::attach {
namespace {

absl::Status CheckTwin(const cni::Request& request) {
  HK_ASSIGN_OR_RETURN(Placement placement, DecidePlacement(request.config));
  if (!placement.split) {
    return cni::MakeError(cni::kInvalidConfig,
                          fmt::format("the DPU's runtime runs only the DPU halves of split Pods, and this one is not "
                                      "split: {}",
                                      placement.reason));
  }
  if (request.pod_uid().empty()) {
    return cni::MakeError(cni::kInvalidEnvironment,
                          "CNI_ARGS has no K8S_POD_UID, by which the host knows this sandbox's other half");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<cni::Result> DpuEngine::Add(const cni::Request& request) {
  HK_RETURN_IF_ERROR(WithCode(Ready(), absl::StatusCode::kUnavailable, cni::kTryAgainLater));
  HK_RETURN_IF_ERROR(CheckAdd(request));
  HK_RETURN_IF_ERROR(Annotate(CheckTwin(request), Describe(request)));
  if (LeaseState lease = peer_.lease(); !lease.valid) {
    return cni::MakeError(cni::kTryAgainLater,
                          fmt::format("{}: the host's heterod at {} does not answer, and it gives the addresses: {}",
                                      Describe(request), lease.address, lease.last_error));
  }
  Attachment row = RowOf(request);
  row.mode = ledger::Mode::kTwin;
  Details details{.owner = row.pod_key, .placement_reason = "DPU sandbox of a split Pod"};
  row.details = details.ToText();

  HK_ASSIGN_OR_RETURN(KeyedMutex::Guard guard, Lock(row.pod_key));
  HK_RETURN_IF_ERROR(Annotate(ClearForTwin(row), Describe(request)));
  HK_RETURN_IF_ERROR(journal_.Write(
      [&](ledger::Tx& tx) -> absl::Status {
        // Of an earlier twin of this Pod: replayed now, it would free what this one is about to use.
        HK_RETURN_IF_ERROR(tx.DeleteTombstone(row.pod_key));
        return tx.PutAttachment(row);
      },
      Durability::kOrdered));
  absl::Cleanup undo = [&] {
    absl::Status undone = RemoveTwin(row, Addresses::kRelease);
    if (!undone.ok()) {
      spdlog::warn("{}: undo: {}; leaving the rest to DEL, GC or the next start", Describe(request), Message(undone));
    }
  };
  HK_FAULT_POINT("dpu.add.after-ledger");
  HK_RETURN_IF_ERROR(Annotate(ReserveAtHost(request, row, details), Describe(request)));
  HK_FAULT_POINT("dpu.add.after-reserve");
  absl::StatusOr<podnet::Uplink> uplink = podnet_.EnsureUplink(UplinkSpecOf(identity_, row, details));
  if (!uplink.ok()) {
    absl::Status failed = Annotate(uplink.status(), Describe(request));
    return WithCode(WithCode(failed, absl::StatusCode::kAlreadyExists, cni::kInterfaceExists),
                    absl::StatusCode::kNotFound, cni::kInvalidNetns);
  }
  HK_FAULT_POINT("dpu.add.after-uplink");
  row.state = ledger::State::kCommitted;
  HK_RETURN_IF_ERROR(journal_.Put(row, Durability::kSynced));
  HK_FAULT_POINT("dpu.add.before-result");
  std::move(undo).Cancel();
  // While the runtime starts the sandbox. Prepare does it where this has failed, or the sandbox is gone again.
  workers_.Post(
      std::packaged_task<void()>([this, path = row.netns_path] { podnet_.FurnishNetns(path).IgnoreError(); }));
  return ResultOf(details,
                  {{.name = uplink->root_ifname, .mac = uplink->root_mac, .mtu = details.mtu},
                   {.name = row.key.ifname, .mac = uplink->mac, .sandbox = row.netns_path, .mtu = details.mtu}},
                  1);
}

// What earlier calls for this Pod have left here gives way: a Pod has one DPU sandbox at a time.
absl::Status DpuEngine::ClearForTwin(const Attachment& wanted) {
  HK_ASSIGN_OR_RETURN(std::vector<Attachment> rows, journal_.OfPod(wanted.pod_key));
  for (const Attachment& row : rows) {
    if (row.key.network != wanted.key.network || row.key.ifname != wanted.key.ifname) {
      return cni::MakeError(cni::kInvalidConfig,
                            fmt::format("the Pod's DPU half has interface {} of network {} already; "
                                        "a second one is not supported",
                                        row.key.ifname, row.key.network));
    }
    if (row.mode == ledger::Mode::kSplit) {
      // Made for the host while no sandbox was here. The host is told by the reservation and joins this one instead.
      HK_RETURN_IF_ERROR(UndoHalf(row));
      continue;
    }
    if (row.key == wanted.key && row.state == ledger::State::kCommitted && row.netns_path == wanted.netns_path) {
      HK_ASSIGN_OR_RETURN(Details details, Details::Parse(row.details));
      if (podnet_.CheckUplink(UplinkSpecOf(identity_, row, details)).ok()) {
        return cni::MakeError(cni::kInterfaceExists,
                              fmt::format("container {} has interface {} of network {} already", row.key.container_id,
                                          row.key.ifname, row.key.network));
      }
    }
    HK_RETURN_IF_ERROR(RemoveTwin(row, Addresses::kKeep));
  }
  return absl::OkStatus();
}

absl::Status DpuEngine::ReserveAtHost(const cni::Request& request, Attachment& row, Details& details) {
  absl::StatusOr<ReserveReply> reply = peer_.Reserve({.pod_key = row.pod_key,
                                                      .network = row.key.network,
                                                      .pod_namespace = row.pod_namespace,
                                                      .pod_name = row.pod_name,
                                                      .annotations = request.config.pod_annotations,
                                                      .network_config = request.config.raw.dump()});
  if (!reply.ok()) return Annotate(reply.status(), "reserve the Pod's addresses at the host");
  details.pod_routes = reply->routes;
  std::vector<cni::ResultIp> ips;
  std::vector<cni::Route> routes;
  for (const IpPrefix& prefix : reply->addresses) ips.push_back({.address = prefix});
  for (const podnet::PodRoute& route : reply->routes) routes.push_back({.dst = route.destination, .mtu = route.mtu});
  SetLease(details, ips, routes, {}, request.config.dns);
  details.mtu = reply->mtu;
  row.details = details.ToText();
  return absl::OkStatus();
}

absl::Status DpuEngine::Del(const cni::Request& request) {
  HK_RETURN_IF_ERROR(WithCode(Ready(), absl::StatusCode::kUnavailable, cni::kTryAgainLater));
  HK_ASSIGN_OR_RETURN(std::optional<Attachment> row, journal_.Find(KeyOf(request)));
  const std::string pod_key = row.has_value() ? row->pod_key : PodKeyOf(request);
  HK_ASSIGN_OR_RETURN(KeyedMutex::Guard guard, Lock(pod_key));
  HK_ASSIGN_OR_RETURN(row, journal_.Find(KeyOf(request)));
  if (row.has_value()) return Annotate(RemoveTwin(*row, Addresses::kRelease), Describe(request));
  return Annotate(Scrub(request, pod_key), Describe(request));
}

absl::Status DpuEngine::RemoveTwin(Attachment row, Addresses addresses) {
  if (row.state != ledger::State::kDeleting) {
    row.state = ledger::State::kDeleting;
    HK_RETURN_IF_ERROR(journal_.Put(row, Durability::kOrdered));
  }
  HK_FAULT_POINT("dpu.del.after-mark");
  if (IsHalf(row)) {
    // The host's half is alone now; it learns so at its next CHECK or Sync, or made the sandbox go itself.
    HK_RETURN_IF_ERROR(UndoHalf(row));
    row.generation = 0;
  }
  std::optional<sys::NetnsRef> ns = OpenIfThere(row.netns_path);
  HK_RETURN_IF_ERROR(podnet_.RemoveUplink(TagOf(identity_, row), ns.has_value() ? row.netns_path : ""));
  HK_FAULT_POINT("dpu.del.after-unwire");
  absl::Status released;
  if (addresses == Addresses::kRelease) {
    released =
        peer_.lease().valid ? peer_.Release(row.pod_key) : absl::UnavailableError("the host's lease has expired");
  }
  HK_FAULT_POINT("dpu.del.after-release");
  return journal_.Write([&](ledger::Tx& tx) -> absl::Status {
    HK_RETURN_IF_ERROR(tx.DeleteAttachment(row.key));
    if (released.ok()) return absl::OkStatus();
    return tx.PutTombstone({.pod_key = row.pod_key, .reason = Message(released), .created_unix_ms = UnixMs()});
  });
}

absl::Status DpuEngine::Scrub(const cni::Request& request, const std::string& pod_key) {
  HK_ASSIGN_OR_RETURN(std::vector<Attachment> others, journal_.OfPod(pod_key));
  if (!others.empty()) return absl::OkStatus();  // of another sandbox, or made for the host
  FirstError failed;
  const pu::OwnerTag tag{.instance = options_.instance, .pod_key = pod_key, .ifname = request.ifname};
  std::optional<sys::NetnsRef> ns = OpenIfThere(request.netns);
  failed.Add(ports_.RemovePod(pod_key));
  failed.Add(podnet_.RemoveUplink(tag, ns.has_value() ? request.netns : ""));
  failed.Add(backend_.ReleaseLink(tag, ns.has_value() ? &*ns : nullptr));
  return failed.status();
}

}  // namespace heterok8s::attach
