#include "node-agent/podnet/bandwidth.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace heterok8s::podnet {
namespace {

using netlink::Batch;
using netlink::Link;
using netlink::Netlink;
using netlink::Shaping;
using netlink::Tbf;

std::string IfbName(const pu::OwnerTag& owner) { return pu::InterfaceName(owner, 'b'); }

// The kernel keeps the burst as a time and shows it rounded; the limit contains it and is exact.
bool Same(const Tbf& a, const Tbf& b) { return a.rate_bytes == b.rate_bytes && a.limit_bytes == b.limit_bytes; }

absl::Status Limit(Netlink& root, int link, const std::optional<Tbf>& now, const Tbf& wanted) {
  if (now && Same(*now, wanted)) return absl::OkStatus();
  return root.Do(netlink::ReplaceTbf{link, wanted});
}

absl::StatusOr<Link> EnsureIfb(Netlink& root, const pu::OwnerTag& owner) {
  std::string name = IfbName(owner);
  absl::StatusOr<Link> found = root.FindLink(name);
  if (found.ok() || !absl::IsNotFound(found.status())) return found;
  Batch batch;
  batch.Add(netlink::AddIfb{name});
  batch.Add(netlink::SetLink{.by_name = name, .alias = owner.ToAlias()});
  HK_RETURN_IF_ERROR(root.Apply(batch));
  return root.FindLink(name);
}

absl::Status EnsureEgress(Netlink& root, const Link& root_end, const pu::OwnerTag& owner, const Shaping& now,
                          const Tbf& wanted) {
  HK_ASSIGN_OR_RETURN(Link ifb, EnsureIfb(root, owner));
  HK_ASSIGN_OR_RETURN(Shaping ifb_now, root.ShapingOf(ifb.index));
  HK_RETURN_IF_ERROR(Limit(root, ifb.index, ifb_now.root, wanted));
  Batch batch;
  batch.Add(netlink::SetLink{.link = ifb.index, .alias = owner.ToAlias(), .up = true});
  if (now.redirect && *now.redirect != ifb.index) {
    batch.Add(netlink::DeleteRedirect{root_end.index}, absl::StatusCode::kNotFound);
  }
  if (now.redirect != ifb.index) batch.Add(netlink::AddRedirect{root_end.index, ifb.index});
  return root.Apply(batch);
}

absl::Status Differs(const std::string& text) { return absl::FailedPreconditionError(text); }

absl::Status CheckTbf(const std::string& what, const std::optional<Tbf>& now, const Tbf& wanted) {
  if (!now) return Differs(fmt::format("{} is not limited", what));
  if (!Same(*now, wanted)) {
    return Differs(fmt::format("{} is limited to {} bytes/s, not {}", what, now->rate_bytes, wanted.rate_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

Tbf TokenBucket(uint64_t rate_bits, uint64_t burst_bits, int mtu) {
  constexpr uint64_t kMax = std::numeric_limits<uint32_t>::max();
  uint64_t rate = std::max<uint64_t>(rate_bits / 8, 1);
  // One that holds a packet only lets a fraction of a high rate through: between two packets the queue's timer must
  // run.
  const uint64_t wanted = burst_bits != 0 ? burst_bits / 8 : rate / 50;  // 20 ms
  // A bucket smaller than a packet passes nothing. 14: the Ethernet header, which the queue counts.
  uint64_t burst = std::clamp<uint64_t>(wanted, static_cast<uint64_t>(mtu) + 14, kMax);
  uint64_t queue = rate / 40;  // 25 ms
  return {.rate_bytes = rate,
          .burst_bytes = static_cast<uint32_t>(burst),
          .limit_bytes = static_cast<uint32_t>(std::min(burst + queue, kMax))};
}

absl::Status EnsureBandwidth(Netlink& root, const Link& root_end, const pu::OwnerTag& owner,
                             const std::optional<Bandwidth>& bandwidth) {
  Bandwidth wanted = bandwidth.value_or(Bandwidth{});
  HK_ASSIGN_OR_RETURN(Shaping now, root.ShapingOf(root_end.index));
  if (wanted.ingress_rate_bits != 0) {
    HK_RETURN_IF_ERROR(Limit(root, root_end.index, now.root,
                             TokenBucket(wanted.ingress_rate_bits, wanted.ingress_burst_bits, root_end.mtu)));
  } else if (now.root) {
    HK_RETURN_IF_ERROR(root.Do(netlink::DeleteRootQueue{root_end.index}, absl::StatusCode::kNotFound));
  }
  if (wanted.egress_rate_bits != 0) {
    return EnsureEgress(root, root_end, owner, now,
                        TokenBucket(wanted.egress_rate_bits, wanted.egress_burst_bits, root_end.mtu));
  }
  if (now.redirect) {
    HK_RETURN_IF_ERROR(root.Do(netlink::DeleteRedirect{root_end.index}, absl::StatusCode::kNotFound));
  }
  return RemoveBandwidth(root, owner);
}

absl::Status CheckBandwidth(Netlink& root, const Link& root_end, const pu::OwnerTag& owner,
                            const std::optional<Bandwidth>& bandwidth) {
  if (!bandwidth) return absl::OkStatus();
  HK_ASSIGN_OR_RETURN(Shaping now, root.ShapingOf(root_end.index));
  if (bandwidth->ingress_rate_bits != 0) {
    HK_RETURN_IF_ERROR(
        CheckTbf("traffic to the Pod", now.root,
                 TokenBucket(bandwidth->ingress_rate_bits, bandwidth->ingress_burst_bits, root_end.mtu)));
  }
  if (bandwidth->egress_rate_bits == 0) return absl::OkStatus();
  HK_ASSIGN_OR_RETURN(std::optional<Link> ifb, FindIfThere(root, IfbName(owner)));
  if (!ifb) return Differs(fmt::format("ifb '{}' is missing", IfbName(owner)));
  if (!ifb->up) return Differs(fmt::format("ifb '{}' is down", ifb->name));
  if (now.redirect != ifb->index) return Differs(fmt::format("traffic from the Pod does not go to '{}'", ifb->name));
  HK_ASSIGN_OR_RETURN(Shaping ifb_now, root.ShapingOf(ifb->index));
  return CheckTbf("traffic from the Pod", ifb_now.root,
                  TokenBucket(bandwidth->egress_rate_bits, bandwidth->egress_burst_bits, root_end.mtu));
}

absl::Status RemoveBandwidth(Netlink& root, const pu::OwnerTag& owner) {
  HK_ASSIGN_OR_RETURN(std::optional<Link> ifb, FindIfThere(root, IfbName(owner)));
  return !ifb ? absl::OkStatus() : root.Do(netlink::DeleteLink{ifb->index}, absl::StatusCode::kNotFound);
}

}  // namespace heterok8s::podnet
