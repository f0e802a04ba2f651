// Which texts Kubernetes takes as names. Names become paths and labels here, so nothing else passes.
//
// Purpose: the rules of k8s.io/apimachinery's util/validation. Threading: pure. Ownership: values. Errors: none; false.
//
//   if (!IsUid(uid)) return absl::InvalidArgumentError(…);
#pragma once

#include <string_view>

namespace heterok8s::manifest {

// RFC 1123 label: containers, volumes, namespaces, host names. 1 to 63 of a-z, 0-9 and '-', which is not at an end.
bool IsDnsLabel(std::string_view text);

// Labels joined by dots, 253 characters at most: Pods, ConfigMaps. Never "..", nor with a dot at an end.
bool IsDnsSubdomain(std::string_view text);

// 1 to 63 letters, digits and '-', the first a letter or digit: UUIDs, and the hashes by which a kubelet knows static
// Pods. The apiserver takes any text; such a Pod cannot be run here.
bool IsUid(std::string_view text);

}  // namespace heterok8s::manifest
