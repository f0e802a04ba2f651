// Kubernetes quantities ("250m", "64Mi", "1.5") as integers.
// Source: k8s.io/apimachinery resource.Quantity: decimal SI and binary SI suffixes; exponents are not accepted here.
#pragma once

#include <cstdint>
#include <string>

#include "common/status/status.h"

namespace heterok8s::manifest {

// In thousandths, rounded up: "250m" -> 250, "2" -> 2000, "64Mi" -> 67108864000.
absl::StatusOr<int64_t> ParseMilli(const std::string& text);

}  // namespace heterok8s::manifest
