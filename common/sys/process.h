// Run a program to its end, with a deadline.
//
// Threading: any thread. Ownership: the child has ended, and is reaped, when Run returns. Errors: kNotFound when the
// program is missing, kDeadlineExceeded after the deadline (the child's process group is killed), kResourceExhausted
// when it prints more than `max_output_bytes`. A non-zero exit is no error: see RunResult::exit_code.
//
//   RunOptions options{.argv = {"/opt/cni/bin/host-local"}, .env = {"CNI_COMMAND=ADD"}, .stdin_text = config};
//   HK_ASSIGN_OR_RETURN(RunResult result, Run(options));
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "common/status/status.h"

namespace heterok8s::sys {

struct RunOptions {
  std::vector<std::string> argv;                // argv[0] is looked up in PATH when it has no slash
  std::optional<std::vector<std::string>> env;  // "KEY=value"; absent: this process's environment
  std::string stdin_text;
  std::chrono::milliseconds deadline{30000};
  size_t max_output_bytes = 4u << 20;
};

struct RunResult {
  int exit_code = 0;  // 128 + N when signal N ended it
  std::string stdout_text;
  std::string stderr_text;
};

absl::StatusOr<RunResult> Run(const RunOptions& options);

}  // namespace heterok8s::sys
