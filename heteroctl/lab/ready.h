// Waiting until a lab does its work: each part is asked, not guessed from a process that exists.
//
// Threading: any. Ownership: none kept. Errors: kDeadlineExceeded with what the part last said; kFailedPrecondition
// when a daemon ends again and again.
//
//   for (const Part& part : Parts(layout, options)) HK_RETURN_IF_ERROR(WaitForPart(layout, part, deadline));
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "common/status/status.h"
#include "heteroctl/lab/configs.h"
#include "heteroctl/lab/layout.h"

namespace heterok8s::lab {

struct Part {
  Place pu = Place::kHost;
  std::string daemon;
};
// containerd on both, heterod on both, heterocri on the host; with Kubernetes also what of it runs on this Node.
std::vector<Part> Parts(const Layout& layout, const ConfigOptions& options);

struct PartState {
  Part part;
  absl::Status status;                 // OK: ready
  std::chrono::milliseconds after{0};  // since the wait began
};

// When the daemon's socket is listened on.
absl::Status WaitForSocket(const std::string& path, std::chrono::steady_clock::time_point deadline);
absl::Status WaitForPart(const Layout& layout, const Part& part, std::chrono::steady_clock::time_point deadline);

}  // namespace heterok8s::lab
