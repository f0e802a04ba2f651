// The bandwidth annotations of a Pod, checked before a runtime sees them.
//
// Purpose: containerd reads kubernetes.io/ingress-bandwidth and egress-bandwidth when it has made the sandbox's network
// namespace already, and again when it removes it; one that it cannot read leaves a sandbox that nobody can stop.
// Threading: pure. Errors: kInvalidArgument with annotation, value and what is expected.
//
//   HK_RETURN_IF_ERROR(CheckBandwidth(config.annotations()));
#pragma once

#include "common/status/status.h"
#include "node-agent/cri/placement.h"

namespace heterok8s::cri {

absl::Status CheckBandwidth(const Annotations& annotations);

}  // namespace heterok8s::cri
