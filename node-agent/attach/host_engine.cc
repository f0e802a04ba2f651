#include "node-agent/attach/host_engine.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/fault/fault.h"
#include "node-agent/attach/requests.h"

namespace heterok8s::attach {
namespace {

constexpr int kEthernetMtu = 1500;

}  // namespace

HostEngine::HostEngine(HostOptions options, HostDeps deps)
    : options_(std::move(options)),
      identity_{.instance = options_.instance, .side = pu::Side::kHost},
      ipam_(deps.ipam),
      podnet_(deps.podnet),
      ports_(deps.ports),
      backend_(deps.backend),
      peer_(deps.peer),
      namespaces_(deps.namespaces),
      journal_(deps.ledger),
      table_(identity_, journal_),
      finish_start_([this] { return FinishStart(); }, options_.retry_interval),
      resync_([this] { return Resync(); }, options_.retry_interval) {}

HostEngine::~HostEngine() = default;

int HostEngine::DefaultMtu() const {
  if (options_.mtu != 0) return options_.mtu;
  int mtu = 0;
  auto fit = [&](int bytes) { mtu = mtu == 0 || (bytes != 0 && bytes < mtu) ? bytes : mtu; };
  if (options_.uplink_mtu) fit(options_.uplink_mtu());
  fit(peer_.lease().peer_uplink_mtu);
  return mtu != 0 ? mtu : kEthernetMtu;
}

absl::StatusOr<sys::KeyedMutex::Guard> HostEngine::Lock(const std::string& pod_key) {
  absl::StatusOr<KeyedMutex::Guard> guard = pods_.Lock(pod_key, kPodLockTimeout);
  if (!guard.ok()) return cni::MakeError(cni::kTryAgainLater, Message(guard.status()));
  return guard;
}

std::optional<sys::NetnsRef> HostEngine::OpenIfThere(const std::string& netns_path) {
  if (netns_path.empty()) return std::nullopt;
  // A path that is there but no namespace any more (its mount went with a reboot) is gone as well.
  absl::StatusOr<sys::NetnsRef> ns = namespaces_.Open(netns_path);
  return ns.ok() ? std::optional<sys::NetnsRef>(*std::move(ns)) : std::nullopt;
}

absl::Status HostEngine::Check(const cni::Request& request) {
  HK_RETURN_IF_ERROR(WithCode(Ready(), absl::StatusCode::kUnavailable, cni::kTryAgainLater));
  HK_ASSIGN_OR_RETURN(std::optional<Attachment> row, journal_.Find(KeyOf(request)));
  if (!row.has_value() || row->state != ledger::State::kCommitted) {
    return cni::MakeError(
        cni::kUnknownContainer,
        fmt::format("{}: {}", Describe(request),
                    row.has_value() ? fmt::format("its attachment is {}", Name(row->state)) : "it has no attachment"));
  }
  HK_ASSIGN_OR_RETURN(Details details, Details::Parse(row->details));
  HK_RETURN_IF_ERROR(CheckPrevResult(request, details));
  absl::Status leased = ipam_.is_delegated(request)
                            ? ipam_.Delegate(request, "CHECK")
                            : journal_.Write([&](ledger::Tx& tx) { return ipam_.Check(tx, request, details.owner); },
                                             Durability::kOrdered);
  HK_RETURN_IF_ERROR(leased);
  if (podnet::HostPortSpec spec = HostPortSpecOf(identity_, details); !spec.empty()) {
    HK_RETURN_IF_ERROR(Annotate(podnet_.CheckHostPorts(spec), Describe(request)));
  }
  if (row->mode == ledger::Mode::kOrdinary) {
    return Annotate(podnet_.CheckUplink(UplinkSpecOf(identity_, *row, details)), Describe(request));
  }

  HK_RETURN_IF_ERROR(Annotate(podnet_.CheckLink(LinkSpecOf(identity_, *row, details)), Describe(request)));
  std::vector<std::string> pods = ports_.ListPods();
  if (std::find(pods.begin(), pods.end(), row->pod_key) == pods.end()) {
    return absl::FailedPreconditionError(fmt::format("{}: its ports are not followed", Describe(request)));
  }
  if (LeaseState lease = peer_.lease(); !lease.valid) {
    return cni::MakeError(cni::kDpuUnavailable,
                          fmt::format("{}: the DPU's lease has expired: {}", Describe(request), lease.last_error));
  }
  absl::Status there = peer_.CheckHalf({.pod_key = row->pod_key, .generation = row->generation});
  return Annotate(UnavailableDpu(Annotate(there, "the DPU half")), Describe(request));
}

absl::Status HostEngine::Status(const cni::Request& request) {
  HK_RETURN_IF_ERROR(WithCode(Ready(), absl::StatusCode::kUnavailable, cni::kNotAvailable));
  absl::Status writable =
      journal_.Write([](ledger::Tx& tx) { return tx.PutValue("status", "asked"); }, Durability::kOrdered);
  if (!writable.ok()) return cni::MakeError(cni::kNotAvailable, Message(writable));
  if (ipam_.is_delegated(request)) {
    HK_RETURN_IF_ERROR(ipam_.Delegate(request, "STATUS"));
  } else {
    // An ADD's allocation, rolled back: the only way to know that the next one would find an address.
    absl::Status probe = journal_.Write(
        [&](ledger::Tx& tx) -> absl::Status {
          HK_RETURN_IF_ERROR(ipam_.Allocate(tx, request, "status probe").status());
          return absl::CancelledError();
        },
        Durability::kOrdered);
    if (cni::CodeOf(probe) == cni::kAddressExhausted) return cni::MakeError(cni::kNotAvailable, Message(probe));
    if (!absl::IsCancelled(probe)) return probe;
  }

  LeaseState lease = peer_.lease();
  if (lease.valid || options_.unsplit_when_dpu_down) return absl::OkStatus();
  // 51 where it hurts Pods that are there: every packet of a split Pod passes the DPU.
  HK_ASSIGN_OR_RETURN(Summary summary, table_.Summarise());
  return cni::MakeError(summary.split_pods > 0 ? cni::kNotAvailableLimited : cni::kNotAvailable,
                        fmt::format("split Pods cannot be made: the DPU's lease has expired: {}", lease.last_error));
}

absl::StatusOr<ReserveReply> HostEngine::Reserve(const ReserveRequest& request) {
  HK_RETURN_IF_ERROR(Ready());
  absl::StatusOr<cni::NetworkConfig> config = cni::ParseConfig(request.network_config);
  if (!config.ok()) return Annotate(config.status(), "the DPU's network configuration");
  cni::Request cni_request;
  cni_request.config = *std::move(config);
  if (ipam_.is_delegated(cni_request)) {
    return cni::MakeError(cni::kUnsupportedField,
                          fmt::format("ipam.type '{}': addresses for a DPU sandbox that comes before the host's can "
                                      "only be reserved by the built-in IPAM",
                                      cni_request.config.ipam.value("type", "")));
  }

  // No Pod lock, here and in Release: the DPU calls with its own Pod locked, and the host calls the DPU with this one
  // locked. One transaction is all the order these two need.
  ReserveReply reply{.mtu = cni_request.config.mtu != 0 ? cni_request.config.mtu : DefaultMtu()};
  bool joined = false;
  HK_RETURN_IF_ERROR(journal_.Write([&](ledger::Tx& tx) -> absl::Status {
    HK_ASSIGN_OR_RETURN(ipam::Lease lease, ipam_.Allocate(tx, cni_request, request.pod_key));
    for (const cni::ResultIp& ip : lease.ips) reply.addresses.push_back(ip.address);
    HK_ASSIGN_OR_RETURN(std::vector<Attachment> rows, tx.AttachmentsOfPod(request.pod_key));
    for (const Attachment& row : rows)
      joined |= row.mode == ledger::Mode::kSplit && row.state == ledger::State::kCommitted;
    Details details{.owner = request.pod_key, .placement_reason = "reserved for its DPU sandbox", .mtu = reply.mtu};
    HK_RETURN_IF_ERROR(TakeLease(request.pod_key, details, lease, {}));
    reply.routes = details.pod_routes;
    // Tells this twin's reservation from that of an earlier one: see ReleaseLostReservation.
    HK_ASSIGN_OR_RETURN(const uint64_t generation, tx.NextGeneration());
    return tx.PutAttachment({.key = {request.network, "reserved:" + request.pod_key, ""},
                             .pod_key = request.pod_key,
                             .pod_namespace = request.pod_namespace,
                             .pod_name = request.pod_name,
                             .mode = ledger::Mode::kTwin,
                             .state = ledger::State::kCommitted,
                             .generation = generation,
                             .details = details.ToText(),
                             .created_unix_ms = UnixMs()});
  }));
  HK_FAULT_POINT("host.reserve.after-ledger");
  // The DPU sandbox was made anew under a host half that is there: that half needs a new link.
  if (joined) resync_.Poke();
  return reply;
}

absl::Status HostEngine::Release(const std::string& pod_key) {
  HK_RETURN_IF_ERROR(Ready());
  return journal_.Write([&](ledger::Tx& tx) -> absl::Status {
    HK_ASSIGN_OR_RETURN(std::vector<Attachment> rows, tx.AttachmentsOfPod(pod_key));
    for (const Attachment& row : rows) {
      if (row.mode == ledger::Mode::kTwin) HK_RETURN_IF_ERROR(FreeReservation(tx, row));
    }
    return absl::OkStatus();
  });
}

// The addresses too, unless the Pod's host half has taken them up.
absl::Status HostEngine::FreeReservation(ledger::Tx& tx, const Attachment& reservation) {
  HK_RETURN_IF_ERROR(tx.DeleteAttachment(reservation.key));
  HK_ASSIGN_OR_RETURN(std::vector<Attachment> others, tx.AttachmentsOfPod(reservation.pod_key));
  for (const Attachment& other : others) {
    if (other.mode != ledger::Mode::kTwin && other.key.network == reservation.key.network &&
        OwnerOf(other.pod_key, other.key.ifname) == other.pod_key) {
      return absl::OkStatus();
    }
  }
  return tx.ReleaseAddresses(reservation.key.network, reservation.pod_key);
}

}  // namespace heterok8s::attach
