// The version that every program of this repository reports.
//
// Purpose: one constant, so that a release changes one line. Threading, ownership, errors: none; it is a constant.
//
//   fmt::print("heterod {}\n", kVersion);
#pragma once

namespace heterok8s {

inline constexpr const char* kVersion = "0.1.0";

}  // namespace heterok8s
