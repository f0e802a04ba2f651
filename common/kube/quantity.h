// Kubernetes quantities ("250m", "64Mi", "1.5", "1e3") as integers.
// Source: k8s.io/apimachinery resource.Quantity: decimal SI, binary SI and decimal exponents. No signs: nothing that we
// read may be negative.
//
// Threading: pure. Errors: kInvalidArgument that names the text.
//
//   HK_ASSIGN_OR_RETURN(int64_t milli, kube::ParseMilli("1.5"));  // 1500
#pragma once

#include <cstdint>
#include <string>

#include "common/status/status.h"

namespace heterok8s::kube {

// In thousandths, rounded up: "250m" -> 250, "2" -> 2000, "64Mi" -> 67108864000.
absl::StatusOr<int64_t> ParseMilli(const std::string& text);

}  // namespace heterok8s::kube
