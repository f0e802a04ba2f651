#include "node-agent/attach/placement.h"

#include <fmt/format.h>

namespace heterok8s::attach {
namespace {

absl::Status Unknown(const std::string& annotation, const std::string& value, const std::string& allowed) {
  return cni::MakeError(cni::kInvalidConfig,
                        fmt::format("annotation {}: '{}' is not known; allowed: {}", annotation, value, allowed));
}

}  // namespace

absl::StatusOr<Placement> DecidePlacement(const cni::NetworkConfig& config) {
  const auto& annotations = config.pod_annotations;
  Placement placement;

  // heterocri's verdict stands, also about a value that only it is asked to judge: it says why in its reason.
  const bool judged = annotations.contains(kPlacementAnnotation);
  auto offload = annotations.find(kOffloadAnnotation);
  if (!judged && offload != annotations.end()) {
    if (offload->second != "dpu") return Unknown(kOffloadAnnotation, offload->second, "dpu");
    placement = {true, fmt::format("annotation {}=dpu", kOffloadAnnotation)};
  } else {
    placement = {false, fmt::format("no annotation {}", kOffloadAnnotation)};
  }

  auto verdict = annotations.find(kPlacementAnnotation);
  if (verdict != annotations.end()) {
    if (verdict->second != "split" && verdict->second != "host") {
      return Unknown(kPlacementAnnotation, verdict->second, "split, host");
    }
    placement = {verdict->second == "split", fmt::format("annotation {}={}", kPlacementAnnotation, verdict->second)};
    auto reason = annotations.find(kPlacementReasonAnnotation);
    if (reason != annotations.end() && !reason->second.empty()) placement.reason = reason->second;
  }
  return placement;
}

}  // namespace heterok8s::attach
