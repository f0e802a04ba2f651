// The plugin's standard input, to its end.
//
// Threading: any. Ownership: borrows the descriptor. Errors: kResourceExhausted beyond kMaxStdinBytes;
// kDeadlineExceeded when whoever called neither writes nor closes; else errno.
//
//   HK_ASSIGN_OR_RETURN(std::string text, ReadInput(STDIN_FILENO, kInputPatience));
#pragma once

#include <chrono>
#include <string>

#include "common/status/status.h"

namespace heterok8s::cni {

// Runtimes write the configuration before or right after they start us, and close (libcni: exec.Cmd with a buffer as
// Stdin). One that forgot must not find its Pods' calls hanging.
inline constexpr std::chrono::seconds kInputPatience{10};

// `patience` counts for all of it.
absl::StatusOr<std::string> ReadInput(int fd, std::chrono::milliseconds patience);

}  // namespace heterok8s::cni
