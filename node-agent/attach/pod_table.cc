#include "node-agent/attach/pod_table.h"

#include <fmt/format.h>

#include <tuple>

namespace heterok8s::attach {
namespace {

// On the host a row of a reservation stands for no sandbox: see HostEngine::Reserve.
bool IsReservation(const Identity& identity, const Attachment& row) {
  return identity.side == pu::Side::kHost && row.mode == ledger::Mode::kTwin;
}

// Of two attachments that a question may mean: one Pod has several interfaces, and of a StatefulSet's Pod the former
// one may still be going when its successor has the name.
bool TellsMore(const PodView& a, const PodView& b) {
  const auto order = [](const PodView& view) {
    return std::tuple(view.state == ledger::State::kCommitted, view.state != ledger::State::kDeleting,
                      view.ifname == "eth0", view.generation, view.created_unix_ms);
  };
  return order(a) > order(b);
}

}  // namespace

PodView PodTable::ViewOf(const Attachment& row) {
  PodView view{.pod_key = row.pod_key,
               .pod_namespace = row.pod_namespace,
               .pod_name = row.pod_name,
               .network = row.key.network,
               .container_id = row.key.container_id,
               .ifname = row.key.ifname,
               .mode = row.mode,
               .state = row.state,
               .generation = row.generation,
               .netns_path = row.netns_path,
               .created_unix_ms = row.created_unix_ms};
  absl::StatusOr<Details> details = Details::Parse(row.details);
  if (details.ok()) {
    view.placement_reason = details->placement_reason;
    view.addresses = details->addresses;
    view.host_ports = details->host_ports;
    if (details->join.has_value()) view.link = LinkSpecOf(identity_, row, *details);
  } else {
    view.placement_reason = Message(details.status());  // shown where a person looks, rather than hiding the Pod
  }
  std::lock_guard lock(mutex_);
  auto joined = joined_.find(row.pod_key);
  const bool told =
      joined != joined_.end() && joined->second.generation == row.generation && joined->second.reports < peer_reports_;
  if (told) {
    auto peer = peer_halves_.find(row.pod_key);
    view.peer_generation = peer == peer_halves_.end() ? 0 : peer->second;
  }
  return view;
}

absl::StatusOr<std::vector<PodView>> PodTable::ListPods() {
  HK_ASSIGN_OR_RETURN(std::vector<Attachment> rows, journal_.All());
  std::vector<PodView> pods;
  for (const Attachment& row : rows) {
    if (!IsReservation(identity_, row)) pods.push_back(ViewOf(row));
  }
  return pods;
}

absl::StatusOr<PodView> PodTable::FindPod(const std::string& pod) {
  HK_ASSIGN_OR_RETURN(std::vector<PodView> pods, ListPods());
  std::string known;
  const PodView* best = nullptr;
  for (const PodView& view : pods) {
    std::string name = fmt::format("{}/{}", view.pod_namespace, view.pod_name);
    if (view.pod_key == pod || name == pod) {
      if (best == nullptr || TellsMore(view, *best)) best = &view;
      continue;
    }
    known += fmt::format("{}{}", known.empty() ? "" : ", ", name == "/" ? view.pod_key : name);
  }
  if (best != nullptr) return *best;
  return absl::NotFoundError(fmt::format("no Pod '{}'; there are: {}", pod, known.empty() ? "none" : known));
}

absl::StatusOr<Summary> PodTable::Summarise() {
  HK_ASSIGN_OR_RETURN(std::vector<Attachment> rows, journal_.All());
  HK_ASSIGN_OR_RETURN(std::vector<ledger::Tombstone> tombstones, journal_.Tombstones());
  Summary summary;
  for (const Attachment& row : rows) {
    if (IsReservation(identity_, row)) {
      ++summary.reservations;
      continue;
    }
    ++summary.attachments;
    // A twin counts as split once it is joined.
    if (row.mode == ledger::Mode::kSplit || (row.mode == ledger::Mode::kTwin && row.generation != 0)) {
      ++summary.split_pods;
    }
  }
  summary.tombstones = static_cast<uint32_t>(tombstones.size());
  HK_ASSIGN_OR_RETURN(summary.addresses_used, journal_.AddressesUsed());
  std::lock_guard lock(mutex_);
  summary.not_ready_reason = not_ready_reason_;
  return summary;
}

absl::StatusOr<podnet::LinkSpec> PodTable::LinkOf(const std::string& pod_key) {
  std::lock_guard lock(mutex_);
  auto link = links_.find(pod_key);
  if (link == links_.end()) return absl::NotFoundError(fmt::format("Pod {} has no link to the other PU", pod_key));
  return link->second;
}

void PodTable::SetLink(const podnet::LinkSpec& spec) {
  std::lock_guard lock(mutex_);
  links_[spec.owner.pod_key] = spec;
}

void PodTable::DropLink(const std::string& pod_key) {
  std::lock_guard lock(mutex_);
  links_.erase(pod_key);
  prepared_.erase(pod_key);
  joined_.erase(pod_key);
}

void PodTable::SetPrepared(const std::string& pod_key, uint64_t generation) {
  std::lock_guard lock(mutex_);
  prepared_[pod_key] = generation;
}

bool PodTable::IsPrepared(const std::string& pod_key, uint64_t generation) const {
  std::lock_guard lock(mutex_);
  auto prepared = prepared_.find(pod_key);
  return prepared != prepared_.end() && prepared->second == generation;
}

bool PodTable::IsJoined(const std::string& pod_key, uint64_t generation) const {
  std::lock_guard lock(mutex_);
  auto joined = joined_.find(pod_key);
  return joined != joined_.end() && joined->second.generation == generation;
}

void PodTable::SetJoined(const std::string& pod_key, uint64_t generation) {
  std::lock_guard lock(mutex_);
  joined_[pod_key] = {.generation = generation, .reports = peer_reports_};
}

std::vector<PodGeneration> PodTable::Joined() const {
  std::lock_guard lock(mutex_);
  std::vector<PodGeneration> halves;
  for (const auto& [pod_key, half] : joined_) halves.push_back({.pod_key = pod_key, .generation = half.generation});
  return halves;
}

void PodTable::SetPeerHalves(const std::vector<PodGeneration>& halves) {
  std::map<std::string, uint64_t> now;
  for (const PodGeneration& half : halves) now[half.pod_key] = half.generation;
  std::lock_guard lock(mutex_);
  peer_halves_ = std::move(now);
  ++peer_reports_;
}

void PodTable::SetReady(std::string not_ready_reason) {
  std::lock_guard lock(mutex_);
  not_ready_reason_ = std::move(not_ready_reason);
}

absl::Status PodTable::Ready() const {
  std::lock_guard lock(mutex_);
  return not_ready_reason_.empty() ? absl::OkStatus() : absl::UnavailableError(not_ready_reason_);
}

}  // namespace heterok8s::attach
