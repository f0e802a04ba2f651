// DpuEngine: Prepare, Commit and Remove, as the host's heterod calls them.
#include <fmt/format.h>

#include <absl/cleanup/cleanup.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <future>

#include "common/fault/fault.h"
#include "node-agent/attach/dpu_engine.h"
#include "node-agent/attach/undo.h"

namespace heterok8s::attach {
namespace {

// Of one Commit, for the host's end to come up. Shorter than the host waits for the answer.
constexpr std::chrono::seconds kLinkTimeout{2};

absl::Status Stale(const std::string& pod_key, uint64_t generation, std::string_view why) {
  return absl::FailedPreconditionError(fmt::format("Pod {} generation {}: {}", pod_key, generation, why));
}

void SetHalf(const PrepareRequest& request, Attachment& row, Details& details) {
  row.generation = request.generation;
  details.addresses = request.addresses;
  details.pod_routes = request.routes;
  details.mtu = request.mtu;
  details.bandwidth = request.bandwidth;
  details.masquerade_outside = request.masquerade_outside;
  details.host_ports = request.host_ports;
  details.join = Join{.generation = request.generation,
                      .committed = false,
                      .addresses = request.link,
                      .host_ephemeral = request.host_ephemeral,
                      .dpu_ephemeral = request.dpu_ephemeral};
  row.details = details.ToText();
}

}  // namespace

std::string DpuEngine::OwnNetnsPath(const std::string& pod_key) const {
  // A hash, because a pod key may hold what a file name must not.
  return fmt::format("{}/{}", options_.netns_folder,
                     pu::InterfaceName({.instance = options_.instance, .pod_key = pod_key, .ifname = "pod-d"}, 'n'));
}

absl::StatusOr<std::optional<Attachment>> DpuEngine::FindHalf(const std::string& pod_key) {
  HK_ASSIGN_OR_RETURN(std::vector<Attachment> rows, journal_.OfPod(pod_key));
  for (Attachment& row : rows) {
    if (IsHalf(row)) return std::move(row);
  }
  return std::nullopt;
}

absl::StatusOr<PrepareReply> DpuEngine::Prepare(const PrepareRequest& request) {
  HK_RETURN_IF_ERROR(Ready());
  if (request.instance != options_.instance) {
    return absl::InvalidArgumentError(fmt::format("the host's instance is '{}', the DPU's is '{}': they must be equal",
                                                  request.instance, options_.instance));
  }
  HK_ASSIGN_OR_RETURN(KeyedMutex::Guard guard, Lock(request.pod_key));
  late_failures_.Take(request.pod_key, request.generation)
      .IgnoreError();  // of an earlier Prepare: this one begins anew
  if (fences_.Refuses(request.pod_key, request.generation)) {
    return Stale(request.pod_key, request.generation, "it was removed already");
  }
  HK_ASSIGN_OR_RETURN(std::optional<Attachment> half, FindHalf(request.pod_key));
  if (half.has_value() && half->generation > request.generation) {
    return Stale(request.pod_key, request.generation, fmt::format("generation {} is here", half->generation));
  }
  const bool repeated =
      half.has_value() && half->generation == request.generation && half->state != ledger::State::kDeleting;
  if (half.has_value() && !repeated) HK_RETURN_IF_ERROR(UndoHalf(*half));

  Details details;
  Attachment row;
  if (repeated) {
    row = *half;
    HK_ASSIGN_OR_RETURN(details, Details::Parse(row.details));
  } else {
    HK_ASSIGN_OR_RETURN(row, RowForHalf(request, details));
    SetHalf(request, row, details);
    HK_RETURN_IF_ERROR(journal_.Put(row, Durability::kOrdered));
  }
  // A repetition that fails leaves the half as it was: it may be a committed one.
  absl::Cleanup undo = [&] {
    if (repeated) return;
    absl::Status undone = UndoHalf(row);
    if (!undone.ok()) spdlog::warn("prepare Pod {}: undo: {}; leaving it to Remove", row.pod_key, Message(undone));
  };
  HK_FAULT_POINT("dpu.prepare.after-ledger");
  absl::StatusOr<HalfBegun> begun = BeginHalf(row, details);
  if (!begun.ok()) return Annotate(begun.status(), fmt::format("Pod {}", row.pod_key));
  PrepareReply reply{
      .netns_path = row.netns_path, .uplink_mac = begun->uplink.mac, .twin = row.mode == ledger::Mode::kTwin};
  if (repeated) {
    HK_RETURN_IF_ERROR(Annotate(FinishHalf(row, details, *std::move(begun)), fmt::format("Pod {}", row.pod_key)));
    return reply;
  }
  std::move(undo).Cancel();
  FinishLater(std::move(guard), std::move(row), std::move(details), *std::move(begun));
  return reply;
}

// While the host, which has its answer, makes the link. Commit waits for the Pod's lock.
void DpuEngine::FinishLater(KeyedMutex::Guard guard, Attachment row, Details details, HalfBegun begun) {
  workers_.Post(std::packaged_task<void()>([this, guard = std::move(guard), row = std::move(row),
                                            details = std::move(details), begun = std::move(begun)]() mutable {
    absl::Status done = Annotate(FinishHalf(row, details, std::move(begun)), fmt::format("Pod {}", row.pod_key));
    if (done.ok()) return;
    late_failures_.Put(row.pod_key, row.generation, done);
    absl::Status undone = UndoHalf(row);
    if (!undone.ok()) spdlog::warn("prepare Pod {}: undo: {}; leaving it to Remove", row.pod_key, Message(undone));
  }));
}

// The row of the Pod's sandbox on this PU, or a new one with a namespace of our own.
absl::StatusOr<Attachment> DpuEngine::RowForHalf(const PrepareRequest& request, Details& details) {
  HK_ASSIGN_OR_RETURN(std::vector<Attachment> rows, journal_.OfPod(request.pod_key));
  for (Attachment& row : rows) {
    if (row.mode != ledger::Mode::kTwin || row.state != ledger::State::kCommitted) continue;
    if (row.key.network != request.network || row.key.ifname != request.ifname) {
      return absl::FailedPreconditionError(
          fmt::format("the Pod's DPU sandbox has interface {} of network {}, the host asks for {} of {}",
                      row.key.ifname, row.key.network, request.ifname, request.network));
    }
    HK_ASSIGN_OR_RETURN(details, Details::Parse(row.details));
    std::vector<IpAddress> here = details.addresses, there = request.addresses;
    std::sort(here.begin(), here.end());
    std::sort(there.begin(), there.end());
    if (here != there) {
      return absl::FailedPreconditionError(
          fmt::format("the Pod's DPU sandbox {} has other addresses than the host's", row.key.container_id));
    }
    return std::move(row);
  }
  details = {.owner = request.pod_key, .placement_reason = "DPU half, prepared by the host"};
  details.own_netns = OwnNetnsPath(request.pod_key);
  return Attachment{.key = {request.network, request.container_id, request.ifname},
                    .pod_key = request.pod_key,
                    .pod_namespace = request.pod_namespace,
                    .pod_name = request.pod_name,
                    .netns_path = details.own_netns,
                    .mode = ledger::Mode::kSplit,
                    .created_unix_ms = UnixMs()};
}

// Up to where the link can be made into it; what needs no more than the namespace goes on meanwhile. Level-driven, as
// the next two: from nothing, from half done, or from done.
absl::StatusOr<DpuEngine::HalfBegun> DpuEngine::BeginHalf(const Attachment& row, const Details& details) {
  HalfBegun begun;
  // The row goes to the disk while the kernels work. Commit is not answered before it is there; it asks again, which
  // costs nothing then, and hears if this has failed: a ledger that could not sync once never says again that it did.
  workers_.Post(std::packaged_task<void()>([this] { journal_.Sync().IgnoreError(); }));
  absl::StatusOr<sys::NetnsRef> ns =
      details.own_netns.empty() ? namespaces_.Open(row.netns_path) : namespaces_.Ensure(row.netns_path);
  if (!ns.ok()) return ns.status();
  HK_FAULT_POINT("dpu.prepare.after-netns");
  begun.guarded =
      workers_.Start([this, link = LinkSpecOf(identity_, row, details)] { return podnet_.EnsureGuards(link); });
  HK_ASSIGN_OR_RETURN(begun.uplink, podnet_.PlaceUplink(UplinkSpecOf(identity_, row, details)));
  HK_FAULT_POINT("dpu.prepare.after-place");
  return begun;
}

// The rest that needs no link.
absl::Status DpuEngine::FinishHalf(const Attachment& row, const Details& details, HalfBegun begun) {
  HK_RETURN_IF_ERROR(begun.uplink.finish());
  HK_FAULT_POINT("dpu.prepare.after-uplink");
  HK_RETURN_IF_ERROR(begun.guarded.Get());
  HK_FAULT_POINT("dpu.prepare.after-guards");
  if (!ports_.features().needs_link()) HK_RETURN_IF_ERROR(TakePorts(row, details));
  table_.SetPrepared(row.pod_key, row.generation);
  return absl::OkStatus();
}

absl::Status DpuEngine::TakePorts(const Attachment& row, const Details& details) {
  // AddPod reports the sockets there are, and their ports are steered by the guards' table.
  table_.SetLink(LinkSpecOf(identity_, row, details));
  HK_RETURN_IF_ERROR(ports_.AddPod(PodPortsOf(identity_, row, details)));
  HK_FAULT_POINT("dpu.half.after-ports");
  return absl::OkStatus();
}

// The host gives a port to one Pod at a time, so whoever else has it here is an older Pod whose removal is on its way,
// or this one is.
absl::Status DpuEngine::TakeHostPorts(const Attachment& row, const Details& details) {
  podnet::HostPortSpec spec = HostPortSpecOf(identity_, details);
  if (spec.empty()) return absl::OkStatus();
  absl::Status taken = podnet_.EnsureHostPorts(spec);
  while (std::optional<std::string> holder = podnet::HostPortHolder(taken)) {
    HK_ASSIGN_OR_RETURN(std::vector<Attachment> rows, journal_.All());
    auto newer = [&](const Attachment& other) {
      return IsHalf(other) && OwnerOf(other.pod_key, other.key.ifname) == *holder && other.generation > row.generation;
    };
    if (std::any_of(rows.begin(), rows.end(), newer)) {
      spdlog::info("Pod {}: {}; leaving its host ports to that one", row.pod_key, Message(taken));
      spec.ports.clear();
      return spec.empty() ? absl::OkStatus() : podnet_.EnsureHostPorts(spec);
    }
    HK_RETURN_IF_ERROR(podnet_.RemoveHostPorts(*holder));
    taken = podnet_.EnsureHostPorts(spec);
  }
  return taken;
}

// The link, in a half that is whole but for it; and what shows the half to others: the root namespace's routes to it
// and the host ports. Before Commit its host may lose power and remember neither the half nor that its addresses are
// taken.
absl::Status DpuEngine::JoinHalf(const Attachment& row, const Details& details) {
  HK_ASSIGN_OR_RETURN(sys::NetnsRef ns, namespaces_.Open(row.netns_path));
  HK_RETURN_IF_ERROR(
      backend_.AcceptLink(TagOf(identity_, row), {.mtu = details.mtu, .netns = &ns, .ifname = kDpuLinkName}).status());
  HK_FAULT_POINT("dpu.commit.after-link");
  HK_RETURN_IF_ERROR(podnet_.EnsureLink(LinkSpecOf(identity_, row, details), podnet::Guards::kAreThere));
  HK_FAULT_POINT("dpu.commit.after-wire");
  if (ports_.features().needs_link()) HK_RETURN_IF_ERROR(TakePorts(row, details));
  HK_RETURN_IF_ERROR(podnet_.RouteUplink(UplinkSpecOf(identity_, row, details)));
  HK_FAULT_POINT("dpu.commit.after-route");
  HK_RETURN_IF_ERROR(TakeHostPorts(row, details));
  table_.SetJoined(row.pod_key, row.generation);
  return absl::OkStatus();
}

absl::Status DpuEngine::Commit(const PodGeneration& pod) {
  HK_RETURN_IF_ERROR(Ready());
  HK_ASSIGN_OR_RETURN(KeyedMutex::Guard guard, Lock(pod.pod_key));
  HK_RETURN_IF_ERROR(late_failures_.Take(pod.pod_key, pod.generation));
  HK_ASSIGN_OR_RETURN(std::optional<Attachment> half, FindHalf(pod.pod_key));
  if (half.has_value() && half->generation > pod.generation) {
    return Stale(pod.pod_key, pod.generation, fmt::format("generation {} is here", half->generation));
  }
  if (!half.has_value() || half->generation < pod.generation || half->state == ledger::State::kDeleting) {
    return absl::NotFoundError(fmt::format("Pod {} generation {} was not prepared", pod.pod_key, pod.generation));
  }
  HK_ASSIGN_OR_RETURN(Details details, Details::Parse(half->details));
  if (details.join->committed && table_.IsJoined(pod.pod_key, pod.generation)) return absl::OkStatus();
  if (!table_.IsPrepared(pod.pod_key, pod.generation)) {
    // It could neither be finished nor undone, here or at our last start.
    return absl::NotFoundError(
        fmt::format("Pod {} generation {}: what is left of its half is not whole", pod.pod_key, pod.generation));
  }
  Workers::Running<absl::Status> synced = workers_.Start([this] { return journal_.Sync(); });  // see BeginHalf
  // What fails here is left as it is: the host, which waits for the answer, removes the half or commits it again.
  HK_RETURN_IF_ERROR(Annotate(JoinHalf(*half, details), fmt::format("Pod {}", pod.pod_key)));
  details.join->committed = true;
  half->details = details.ToText();
  half->state = ledger::State::kCommitted;
  HK_FAULT_POINT("dpu.commit.before-ledger");
  // The host brings its end up meanwhile. Without it nothing is wrong with this half.
  absl::Status passes = podnet_.AwaitLink(LinkSpecOf(identity_, *half, details), kLinkTimeout);
  if (absl::IsDeadlineExceeded(passes)) {
    spdlog::warn("Pod {}: {}; its first packets may be lost", pod.pod_key, Message(passes));
  } else {
    HK_RETURN_IF_ERROR(Annotate(passes, fmt::format("Pod {}", pod.pod_key)));
  }
  HK_RETURN_IF_ERROR(synced.Get());
  // What changes in the row is a word about this kernel's objects, and a power cut takes those away.
  HK_RETURN_IF_ERROR(journal_.Put(*half, Durability::kOrdered));
  HK_FAULT_POINT("dpu.commit.after-ledger");
  return absl::OkStatus();
}

// The kernel's word, not the row's: somebody may have changed it since.
absl::Status DpuEngine::CheckHalf(const PodGeneration& pod) {
  HK_RETURN_IF_ERROR(Ready());
  HK_ASSIGN_OR_RETURN(KeyedMutex::Guard guard, Lock(pod.pod_key));
  HK_ASSIGN_OR_RETURN(std::optional<Attachment> half, FindHalf(pod.pod_key));
  if (!half.has_value() || half->generation != pod.generation || half->state != ledger::State::kCommitted) {
    return absl::NotFoundError(fmt::format("Pod {} generation {} is not here", pod.pod_key, pod.generation));
  }
  HK_ASSIGN_OR_RETURN(Details details, Details::Parse(half->details));
  if (!details.join->committed) return absl::NotFoundError(fmt::format("Pod {} has no link here", pod.pod_key));
  HK_RETURN_IF_ERROR(podnet_.CheckUplink(UplinkSpecOf(identity_, *half, details)));
  HK_RETURN_IF_ERROR(podnet_.CheckLink(LinkSpecOf(identity_, *half, details)));
  if (podnet::HostPortSpec spec = HostPortSpecOf(identity_, details); !spec.empty()) {
    HK_RETURN_IF_ERROR(podnet_.CheckHostPorts(spec));
  }
  std::vector<std::string> pods = ports_.ListPods();
  if (std::find(pods.begin(), pods.end(), pod.pod_key) != pods.end()) return absl::OkStatus();
  return absl::FailedPreconditionError("its ports are not followed");
}

absl::Status DpuEngine::Remove(const PodGeneration& pod) {
  HK_RETURN_IF_ERROR(Ready());
  // Before the lock: a Prepare that holds it finishes first, one that waits for it must not start.
  fences_.Raise(pod.pod_key, pod.generation);
  HK_ASSIGN_OR_RETURN(KeyedMutex::Guard guard, Lock(pod.pod_key));
  late_failures_.Take(pod.pod_key, pod.generation).IgnoreError();  // nobody will ask for it any more
  HK_ASSIGN_OR_RETURN(std::optional<Attachment> half, FindHalf(pod.pod_key));
  if (!half.has_value() || half->generation > pod.generation) return absl::OkStatus();
  return UndoHalf(*half);
}

absl::Status DpuEngine::UndoHalf(Attachment row) {
  absl::StatusOr<Details> parsed = Details::Parse(row.details);
  Details details = parsed.ok() ? *std::move(parsed) : Details{.owner = row.pod_key};
  const pu::OwnerTag tag = TagOf(identity_, row);
  std::optional<sys::NetnsRef> ns = OpenIfThere(row.netns_path);
  const bool own = row.mode == ledger::Mode::kSplit;

  FirstError failed;
  table_.DropLink(row.pod_key);
  failed.Add(ports_.RemovePod(row.pod_key));
  if (!HostPortSpecOf(identity_, details).empty()) failed.Add(podnet_.RemoveHostPorts(details.owner));
  // A namespace of our own goes as a whole.
  if (!own && ns.has_value() && details.join.has_value()) {
    failed.Add(OkIfGone(podnet_.RemoveLink(LinkSpecOf(identity_, row, details))));
  }
  failed.Add(backend_.ReleaseLink(tag, ns.has_value() ? &*ns : nullptr));
  if (own) {
    failed.Add(podnet_.RemoveUplink(tag, ns.has_value() ? row.netns_path : ""));
    ns.reset();  // an open descriptor would keep the namespace alive
    failed.Add(namespaces_.Delete(OwnNetnsPath(row.pod_key)));
  }
  HK_RETURN_IF_ERROR(failed.status());
  HK_FAULT_POINT("dpu.remove.after-unwire");
  if (own) {
    HK_RETURN_IF_ERROR(journal_.Write([&](ledger::Tx& tx) { return tx.DeleteAttachment(row.key); }));
  } else {
    row.generation = 0;
    details.join.reset();
    details.masquerade_outside.clear();
    details.host_ports.clear();
    row.details = details.ToText();
    HK_RETURN_IF_ERROR(journal_.Put(row, Durability::kSynced));
  }
  HK_FAULT_POINT("dpu.remove.after-ledger");
  return absl::OkStatus();
}

}  // namespace heterok8s::attach
