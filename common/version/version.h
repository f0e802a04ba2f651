// The version that every program of this repository reports.
#pragma once

namespace heterok8s {

inline constexpr const char* kVersion = "0.1.0";

}  // namespace heterok8s
