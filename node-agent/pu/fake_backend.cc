#include "node-agent/pu/fake_backend.h"

#include <fmt/format.h>

namespace heterok8s::pu {
namespace {

std::string NameOr(const std::string& name, const OwnerTag& tag) {
  return name.empty() ? InterfaceName(tag, 'x') : name;
}

uint64_t PlaceOf(const sys::NetnsRef* netns) { return netns != nullptr ? netns->inode() : 0; }

}  // namespace

void FakeFabric::SetDpuDown(bool down) {
  std::lock_guard lock(mutex_);
  dpu_down_ = down;
}

size_t FakeFabric::size() const {
  std::lock_guard lock(mutex_);
  return links_.size();
}

void FakeBackend::FailNext(const std::string& call, absl::Status status) {
  std::lock_guard lock(fabric_.mutex_);
  failures_[call] = std::move(status);
}

absl::Status FakeBackend::TakeFailure(const std::string& call) {
  auto found = failures_.find(call);
  if (found == failures_.end()) return absl::OkStatus();
  absl::Status status = found->second;
  failures_.erase(found);
  return status;
}

absl::StatusOr<LinkEnd> FakeBackend::AcquireLink(const OwnerTag& tag, const LinkRequest& request) {
  std::lock_guard lock(fabric_.mutex_);
  HK_RETURN_IF_ERROR(TakeFailure("AcquireLink"));
  if (side_ != Side::kHost) return absl::FailedPreconditionError("only the host's PU makes links");
  if (fabric_.dpu_down_) return absl::UnavailableError("the DPU is gone");
  FakeFabric::End mine{PlaceOf(request.netns), {NameOr(request.ifname, tag), LinkMac(tag, Side::kHost), request.mtu}};
  auto found = fabric_.links_.find(tag);
  if (found != fabric_.links_.end() && found->second.host.netns == mine.netns &&
      found->second.host.link.ifname == mine.link.ifname) {
    found->second.host.link.mtu = request.mtu;
    return found->second.host.link;
  }
  // None, or one of an earlier sandbox of the Pod.
  FakeFabric::End other{0, {InterfaceName(tag, 'x'), LinkMac(tag, Side::kDpu), request.mtu}};
  fabric_.links_[tag] = {.host = mine, .dpu = other};
  return mine.link;
}

absl::StatusOr<LinkEnd> FakeBackend::AcceptLink(const OwnerTag& tag, const LinkRequest& request) {
  std::lock_guard lock(fabric_.mutex_);
  HK_RETURN_IF_ERROR(TakeFailure("AcceptLink"));
  if (side_ != Side::kDpu) return absl::FailedPreconditionError("only the DPU's PU accepts links");
  auto found = fabric_.links_.find(tag);
  uint64_t place = PlaceOf(request.netns);
  if (found == fabric_.links_.end() || (found->second.dpu.netns != 0 && found->second.dpu.netns != place)) {
    return absl::NotFoundError(fmt::format("no link of '{}' has come from the host", tag.ToAlias()));
  }
  FakeFabric::End& end = found->second.dpu;
  end.netns = place;
  end.link.ifname = NameOr(request.ifname, tag);
  end.link.mtu = request.mtu;
  return end.link;
}

absl::Status FakeBackend::ReleaseLink(const OwnerTag& tag, const sys::NetnsRef* netns) {
  std::lock_guard lock(fabric_.mutex_);
  HK_RETURN_IF_ERROR(TakeFailure("ReleaseLink"));
  auto found = fabric_.links_.find(tag);
  if (found == fabric_.links_.end()) return absl::OkStatus();
  uint64_t mine = Mine(found->second).netns;
  // The host also reaches the end that the DPU has not accepted yet.
  bool reachable = mine == 0 || mine == PlaceOf(netns) || (side_ == Side::kHost && found->second.dpu.netns == 0);
  if (reachable) fabric_.links_.erase(found);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<OwnerTag>> FakeBackend::ListLinks() {
  std::lock_guard lock(fabric_.mutex_);
  HK_RETURN_IF_ERROR(TakeFailure("ListLinks"));
  std::vector<OwnerTag> tags;
  for (auto& [tag, link] : fabric_.links_) {
    if (Mine(link).netns == 0 && tag.instance == instance_) tags.push_back(tag);
  }
  return tags;
}

}  // namespace heterok8s::pu
