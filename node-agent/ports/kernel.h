// The BPF object of one heterod: loaded, attached, pinned, adopted and upgraded.
//
// Purpose: everything about pins and programs, nothing about Pods' lives. Below Options::bpffs:
//   maps/NAME       every map of the object        links/PROGRAM   one link per program on the cgroup root
//   pods/COOKIE     the sk_lookup link of one Pod's network namespace
// Threading: thread-safe after Load(). Ownership: destroying it leaves all pins, so Pods are served on.
// Errors: kUnimplemented names the missing kernel feature; kResourceExhausted when the cgroup root is full.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "common/bpf/handles.h"
#include "common/bpf/map.h"
#include "common/status/status.h"
#include "node-agent/ports/layout.h"
#include "node-agent/ports/ports.h"

namespace heterok8s::ports {

class Kernel {
 public:
  static absl::StatusOr<std::unique_ptr<Kernel>> Load(const Options& options);

  const KernelFeatures& features() const { return features_; }

  // sk_lookup in one network namespace. Idempotent.
  absl::Status AttachPod(uint64_t cookie, int netns_fd) const;
  absl::Status DetachPod(uint64_t cookie) const;

  // In the network namespace of the calling thread: claims sockets that no hook has seen and puts those that link
  // addresses do not match into the sockhash.
  absl::Status ScanTcp() const;
  absl::Status ScanUdp() const;

  uint64_t Stat(hk_stat which) const;

  // Would one more entry of a Pod with this share be let in now? As is_used_up() of bpf/share.h.
  bool HasRoom(const hk_share& share) const;

  // What must be one step together with what the programs do; see hk_order. True when there was something to do.
  absl::StatusOr<bool> Order(hk_order_kind kind, const hk_claim_key& key) const;

  // Calls `handler` for each event that is in the ring now; `epoll_fd` is readable when there are some.
  using Handler = std::function<void(const hk_event&)>;
  absl::Status OpenRing(Handler handler);
  int ring_epoll_fd() const;
  void DrainRing();

  bpf::Map<uint64_t, hk_pod> pods;
  bpf::Map<uint64_t, hk_pod_name> pod_names;
  bpf::Map<hk_addr, hk_link> links;
  bpf::Map<hk_claim_key, hk_local> local;
  bpf::Map<hk_port_key, hk_remote> remote;
  bpf::Map<uint64_t, hk_share> shares;
  bpf::Map<uint32_t, int32_t> burst;
  bpf::Map<hk_callers_key, hk_callers> callers;

 private:
  Kernel() = default;
  absl::Status Probe();
  absl::Status LoadOrRecreate();
  absl::Status AttachAll();
  absl::Status Scan(const bpf_link* iterator) const;
  const bpf_program* Program(const char* name) const;
  std::string PodPin(uint64_t cookie) const;

  std::string bpffs_;
  KernelFeatures features_;
  bpf::BpfObject object_;
  bpf::BpfLink scan_tcp_, scan_udp_;
  bool post_bind_retval_ = false;
  int stats_fd_ = -1, order_fd_ = -1;
  Handler handler_;
  bpf::RingBuffer ring_;  // calls handler_, so it goes first
};

}  // namespace heterok8s::ports
