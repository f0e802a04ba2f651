// What the attach engine knows about its Pods, for people and for the port stream.
//
// Purpose: the read side. admin answers `heteroctl why/status/ps` from it; node-agent/peer asks for the LinkSpec of a
// Pod to steer its ports (podnet::PodNet::SetPort).
// Threading: thread-safe; reads the ledger and memory, never the kernel or the other PU. Ownership: values are copies.
// Errors: kNotFound names the Pods there are.
//
//   HK_ASSIGN_OR_RETURN(PodView pod, inspect.FindPod("default/web"));
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/status/status.h"
#include "node-agent/ledger/ledger.h"
#include "node-agent/podnet/podnet.h"

namespace heterok8s::attach {

struct PodView {
  std::string pod_key, pod_namespace, pod_name;
  std::string network, container_id, ifname;
  ledger::Mode mode = ledger::Mode::kOrdinary;
  ledger::State state = ledger::State::kPreparing;
  uint64_t generation = 0;  // here; 0 for a DPU twin that the host has not prepared yet
  // On the other PU, as its last heartbeat said; 0: it has no whole half. Absent: it has said nothing since the half
  // here was joined, or there is none here.
  std::optional<uint64_t> peer_generation;
  std::string placement_reason;  // "annotation heteropod.io/offload=dpu"
  std::vector<IpAddress> addresses;
  std::string netns_path;
  std::vector<podnet::HostPort> host_ports;
  std::optional<podnet::LinkSpec> link;  // of a Pod whose two halves are joined
  int64_t created_unix_ms = 0;
};

struct Summary {
  uint32_t attachments = 0, split_pods = 0, tombstones = 0, addresses_used = 0, reservations = 0;
  std::string not_ready_reason;  // empty: ready
};

class Inspect {
 public:
  virtual ~Inspect() = default;
  virtual absl::StatusOr<std::vector<PodView>> ListPods() = 0;
  // By pod key, or by "namespace/name". Of several attachments one that is whole comes before one that is being made,
  // and that before one that is going; then eth0 before other interfaces, and the youngest.
  virtual absl::StatusOr<PodView> FindPod(const std::string& pod) = 0;
  virtual absl::StatusOr<Summary> Summarise() = 0;
  // Memory only, for every port event: the link of a joined Pod; kNotFound when there is none.
  virtual absl::StatusOr<podnet::LinkSpec> LinkOf(const std::string& pod_key) = 0;
};

}  // namespace heterok8s::attach
