// Does this Pod want to be split, and why.
//
// Threading: pure function. Errors: kInvalidConfig (CNI code 7) names the annotation, its value and what is allowed.
//
//   HK_ASSIGN_OR_RETURN(Placement placement, DecidePlacement(request.config));
#pragma once

#include <string>

#include "common/cni/types.h"

namespace heterok8s::attach {

// heterocri's verdict; it has looked at the whole Pod, so it wins over the Pod's own wish.
inline constexpr char kPlacementAnnotation[] = "heteropod.io/placement";  // split | host
inline constexpr char kPlacementReasonAnnotation[] = "heteropod.io/placement-reason";
// The Pod's wish, as its author wrote it.
inline constexpr char kOffloadAnnotation[] = "heteropod.io/offload";  // dpu

struct Placement {
  bool split = false;
  std::string reason;  // "annotation heteropod.io/offload=dpu"
};

absl::StatusOr<Placement> DecidePlacement(const cni::NetworkConfig& config);

}  // namespace heterok8s::attach
