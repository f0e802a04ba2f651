// ADD, DEL, CHECK, GC and STATUS: the transaction over both PUs. The only place that orders steps.
//
// Purpose: the host role attaches ordinary and split Pods; the DPU role attaches the DPU half for the host, and twin
// sandboxes for its own runtime. cni_server calls it with parsed requests; peer calls the DPU half.
// Threading: thread-safe; calls for the same Pod are serialised inside. Ownership: borrows ledger, podnet, ports,
// backend, ipam and peer, which must outlive it.
// Errors: Status with a CNI code (common/cni/types.h).
//
//   absl::StatusOr<cni::Result> result = engine.Add(request);
#pragma once

#include "common/cni/types.h"
#include "common/status/status.h"

namespace heterok8s::attach {

class Engine {
 public:
  virtual ~Engine() = default;
  virtual absl::StatusOr<cni::Result> Add(const cni::Request& request) = 0;
  virtual absl::Status Del(const cni::Request& request) = 0;
  virtual absl::Status Check(const cni::Request& request) = 0;
  virtual absl::Status Gc(const cni::Request& request) = 0;
  virtual absl::Status Status(const cni::Request& request) = 0;
};

}  // namespace heterok8s::attach
