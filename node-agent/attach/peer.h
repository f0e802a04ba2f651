// What the attach engines ask of the other PU's heterod, and what they answer to it.
//
// Purpose: the narrow port between attach (which orders the steps) and node-agent/peer (which speaks gRPC). The values
// mirror proto/heterok8s/v1/peer.proto; that file documents what each call means.
// Threading: a PeerClient and both handlers are called from many threads at once.
// Ownership: values are copies. The handlers are implemented by HostEngine and DpuEngine and outlive the peer server.
// Errors: a call never waits longer than the deadline its PeerClient was made with. kUnavailable or kDeadlineExceeded:
// the other side may or may not have done it, so the caller repeats the call or sends Remove. Every other code is the
// handler's own answer and crosses the wire unchanged, code and message.
//
//   HK_ASSIGN_OR_RETURN(PrepareReply reply, peer.Prepare(request, [&] { guarded = Guard(); }));   // the host's engine
//   grpc::Status s = ToGrpc(half.Commit({.pod_key = r.pod_key(), .generation = r.generation()}));   // the DPU's server
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/net/ip.h"
#include "common/status/status.h"
#include "node-agent/podnet/podnet.h"

namespace heterok8s::attach {

struct PodGeneration {
  std::string pod_key;
  uint64_t generation = 0;
  auto operator<=>(const PodGeneration&) const = default;
};

struct PrepareRequest {
  std::string pod_key;
  uint64_t generation = 0;
  std::string instance;  // pu::OwnerTag.instance
  std::string network;
  std::string container_id;  // of the host sandbox
  std::string ifname;        // of the Pod's interface, "eth0"
  std::string pod_namespace, pod_name;
  std::vector<IpAddress> addresses;      // of the Pod
  std::vector<podnet::PodRoute> routes;  // of both halves; empty: the default routes
  podnet::LinkAddresses link;
  podnet::PortRange host_ephemeral, dpu_ephemeral;
  int mtu = 1500;  // bytes
  std::optional<podnet::Bandwidth> bandwidth;
  std::vector<IpPrefix> masquerade_outside;  // see podnet::HostPortSpec
  std::vector<podnet::HostPort> host_ports;  // on addresses of the host
};
struct PrepareReply {
  std::string netns_path;  // pod-d, on the DPU
  std::string uplink_mac;
  bool twin = false;  // the namespace belongs to a sandbox of the DPU's runtime
};

struct ReserveRequest {
  std::string pod_key;
  std::string network;
  std::string pod_namespace, pod_name;
  std::map<std::string, std::string> annotations;
  std::string network_config;  // JSON: the DPU's CNI configuration of this network
};
struct ReserveReply {
  std::vector<IpPrefix> addresses;       // each with its full length
  std::vector<podnet::PodRoute> routes;  // as PrepareRequest's
  int mtu = 0;                           // bytes
};

struct SyncRequest {
  uint64_t epoch = 0;               // of the host's heterod
  std::vector<PodGeneration> pods;  // every split Pod the host holds, in any state but being deleted
  // Everything up to this generation is in `pods` or is gone. The DPU leaves younger halves alone: they were prepared
  // after the list was made.
  uint64_t newest_generation = 0;
};
struct SyncReply {
  std::vector<PodGeneration> pods;  // what the DPU has after it removed the rest; generation 0: a twin not prepared
};

// The lease as this side sees it; see Peer.Heartbeat.
struct LeaseState {
  bool valid = false;                            // the last good heartbeat is younger than lease.duration
  bool peer_ready = false;                       // and the other side has reconciled
  std::optional<std::chrono::milliseconds> age;  // since the last good heartbeat; absent: never
  // Whether `valid` tells anything of the other side: not before its first heartbeat, unless a lease went by without.
  bool decided = false;
  std::chrono::milliseconds left{0};  // until the lease ends, or is decided, without a heartbeat
  uint64_t peer_epoch = 0;            // of the other heterod; 0: never seen
  std::string peer_boot_id;
  int peer_uplink_mtu = 0;  // bytes, as last heard; 0: not known
  std::string address;
  std::string last_error;  // why the lease is not valid, or not ready
};

// What the caller has to do while the other side works: runs at most once, on the calling thread, when the request was
// given to the connection, before the answer is waited for. That it ran does not say that the request left. Its time
// counts against the call's deadline.
using Meanwhile = std::function<void()>;

// The other PU's heterod. One object per heterod; each role uses its half of the calls.
class PeerClient {
 public:
  virtual ~PeerClient() = default;

  // Host to DPU.
  virtual absl::StatusOr<PrepareReply> Prepare(const PrepareRequest& request, const Meanwhile& meanwhile = nullptr) = 0;
  virtual absl::Status Commit(const PodGeneration& pod, const Meanwhile& meanwhile = nullptr) = 0;
  virtual absl::Status CheckHalf(const PodGeneration& pod) = 0;
  virtual absl::Status Remove(const PodGeneration& pod) = 0;
  virtual absl::StatusOr<SyncReply> Sync(const SyncRequest& request) = 0;

  // DPU to host.
  virtual absl::StatusOr<ReserveReply> Reserve(const ReserveRequest& request) = 0;
  virtual absl::Status Release(const std::string& pod_key) = 0;

  // Reads memory only: never waits for the other side.
  virtual LeaseState lease() const = 0;
};

// Told by node-agent/peer what the other heterod's heartbeats say. Both return at once.
class PeerWatcher {
 public:
  virtual ~PeerWatcher() = default;
  // The other heterod is there for the first time, is back after the lease had expired, has become ready, or answers
  // with another epoch (it restarted). The work runs on the engine's thread.
  virtual void PeerReturned() = 0;
  // With each heartbeat of a side that has reconciled: the halves that are whole there. All of them.
  virtual void PeerHas(const std::vector<PodGeneration>& halves) = 0;
};

// The DPU's side of Prepare, Commit, Remove and Sync. Implemented by DpuEngine.
class DpuHalf {
 public:
  virtual ~DpuHalf() = default;
  // OK when reconciled; else kUnavailable with the reason: the text of HeartbeatReply.not_ready_reason.
  virtual absl::Status Ready() const = 0;
  // kFailedPrecondition when a newer generation is known, or this one was removed already. Answers when the link can be
  // made into the half; what fails of it later is undone and told by Commit.
  virtual absl::StatusOr<PrepareReply> Prepare(const PrepareRequest& request) = 0;
  // Waits for what Prepare left to be done. kNotFound when it was not prepared, or has no link.
  virtual absl::Status Commit(const PodGeneration& pod) = 0;
  // kNotFound when this generation is not here, kFailedPrecondition with what the kernel lacks of it.
  virtual absl::Status CheckHalf(const PodGeneration& pod) = 0;
  virtual absl::Status Remove(const PodGeneration& pod) = 0;  // OK when there is none
  virtual absl::StatusOr<SyncReply> Sync(const SyncRequest& request) = 0;
  // The halves that are whole here, from memory: what heartbeats tell the host.
  virtual std::vector<PodGeneration> Halves() const = 0;
};

// The host's side of Reserve and Release. Implemented by HostEngine.
class HostHalf {
 public:
  virtual ~HostHalf() = default;
  virtual absl::Status Ready() const = 0;  // as DpuHalf::Ready
  virtual absl::StatusOr<ReserveReply> Reserve(const ReserveRequest& request) = 0;
  virtual absl::Status Release(const std::string& pod_key) = 0;  // OK when there is none
};

}  // namespace heterok8s::attach
