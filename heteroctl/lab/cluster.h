// A Kubernetes cluster of heterogeneous Nodes: labs that are joined, and what one waits for before using them.
//
// Threading: any. Ownership: the labs stay when the process ends, until Down. Errors: those of Up and Down;
// kDeadlineExceeded with what the cluster last said.
//
//   HK_ASSIGN_OR_RETURN(ClusterResult cluster, UpCluster(options, /*nodes=*/2, report));
#pragma once

#include <string>
#include <vector>

#include "common/status/status.h"
#include "heteroctl/lab/lab.h"

namespace heterok8s::lab {

struct ClusterResult {
  std::vector<UpResult> nodes;
  std::string kubeconfig;             // a path on this machine
  std::chrono::milliseconds took{0};  // until every Node is Ready and Pods can be made
};

// options.config.kubernetes is the folder of Kubernetes's programs. All Nodes or none.
absl::StatusOr<ClusterResult> UpCluster(const UpOptions& options, int nodes, const Report& report);

// The lab's other Nodes first, then itself.
absl::Status DownCluster(const Layout& layout);

}  // namespace heterok8s::lab
