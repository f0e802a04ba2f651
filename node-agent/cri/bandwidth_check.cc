#include "node-agent/cri/bandwidth_check.h"

#include <fmt/format.h>

#include "common/kube/quantity.h"

namespace heterok8s::cri {
namespace {

// Source: containerd 1.6 pkg/cri/server/bandwidth, minRsrc and maxRsrc; the kubelet's are the same.
constexpr int64_t kLeastMilli = 1'000 * int64_t{1000}, kMostMilli = 1'000'000'000'000'000 * int64_t{1000};

}  // namespace

absl::Status CheckBandwidth(const Annotations& annotations) {
  for (const char* key : {"kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"}) {
    auto found = annotations.find(key);
    if (found == annotations.end()) continue;
    absl::StatusOr<int64_t> milli = kube::ParseMilli(found->second);
    if (!milli.ok()) return absl::InvalidArgumentError(fmt::format("annotation {}: {}", key, Message(milli.status())));
    if (*milli < kLeastMilli || *milli > kMostMilli) {
      return absl::InvalidArgumentError(
          fmt::format("annotation {}: '{}' is not between 1k and 1P bits per second", key, found->second));
    }
  }
  return absl::OkStatus();
}

}  // namespace heterok8s::cri
