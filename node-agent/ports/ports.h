// Port ownership and direct calls of the split Pods on this PU.
//
// Purpose: know which sockets of a Pod own which ports here, tell the owner of this object (who tells the other PU),
// enforce what the other PU owns (bind refused with EADDRINUSE), and carry localhost and Pod-IP calls across at the
// socket. See ARCHITECTURE.md "Life of a packet" and docs/design/ports.md.
// Threading: thread-safe. The listener is called on one thread of this object's own, in kernel order, and must not
// block for long. Ownership: BPF links and maps are pinned below Options::bpffs, so they outlive this process and are
// found again by the next Create().
// Errors: kUnimplemented names the missing kernel feature.
//
//   HK_ASSIGN_OR_RETURN(std::unique_ptr<Ports> ports, NewBpfPorts(options, [&](const PortChange& c) { queue.Push(c);
//   })); HK_RETURN_IF_ERROR(ports->AddPod(pod));
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/net/ip.h"
#include "common/status/status.h"
#include "node-agent/podnet/podnet.h"

namespace heterok8s::ports {

// What a socket claims: TCP from listen(), UDP from bind(). Two claims collide when protocol and port are equal and
// their addresses overlap: a wildcard overlaps everything of its family, and a v6 wildcard that is not v6only also all
// of v4. 127.0.0.1:80 on one PU and PodIP:80 on the other coexist.
struct PortKey {
  Protocol protocol = Protocol::kTcp;
  IpAddress address;  // as bound; unspecified: wildcard
  uint16_t port = 0;
  bool dual_stack = false;  // v6 wildcard without IPV6_V6ONLY
  auto operator<=>(const PortKey&) const = default;
  std::string ToString() const;  // "tcp 127.0.0.1:8080", "tcp [::]:80 (dual stack)"
};

struct PortChange {
  std::string pod_key;
  PortKey key;
  bool opened = true;     // false: the last socket with this key closed
  uint64_t epoch_ns = 0;  // CLOCK_MONOTONIC of the socket call; the lower one wins a tie between PUs
};

// So many ports of one Pod may have an owner on one PU, when the room that all Pods share allows it; a few hundred
// (layout.h) it may have in any case. Of more, bind() fails with ENOBUFS, and the other PU is told of none.
inline constexpr size_t kMostClaimsOfAPod = 16384;

// A bind() that was refused here because the other PU owns the port, or because the Pod has used its share of ports.
struct Refusal {
  enum class Reason { kOtherPu, kShare };
  std::string pod_key;
  PortKey key;
  uint32_t pid = 0;     // in the initial PID namespace
  std::string command;  // comm of the process; what is not printable ASCII in it is '?'
  int64_t unix_ms = 0;
  Reason reason = Reason::kOtherPu;
};

struct OwnedPort {
  PortKey key;
  int64_t since_unix_ms = 0;
  uint32_t sockets = 1;
};

struct PodPorts {
  std::string pod_key;
  pu::Side side = pu::Side::kHost;  // which side this PU is
  std::string netns_path;
  std::vector<IpAddress> addresses;
  podnet::LinkAddresses link;
  podnet::PortRange own_ephemeral, other_ephemeral;
};

struct KernelFeatures {      // probed at Create(); `status` shows them
  bool bind_retval = false;  // EADDRINUSE from cgroup/bind (kernel >= 5.18)
  bool sk_lookup = false;    // >= 5.9
  bool name_hooks = false;   // getpeername/getsockname, >= 5.8
  bool ring_buffer = false;  // >= 5.8
  bool sockops_listen = false;
  std::string cgroup2;        // where programs are attached
  bool placeholders = false;  // none of the above: placeholder sockets and NAT
  // AddPod looks for the device that has the link's addresses, so the Pod is wired before; else any time will do.
  bool needs_link() const { return placeholders; }
};

enum class Mechanism { kAuto, kBpf, kPlaceholder };  // kAuto: BPF, or placeholders where the kernel cannot

class Ports {
 public:
  virtual ~Ports() = default;
  virtual KernelFeatures features() const = 0;

  // Idempotent. Sockets that exist already in the namespace are found; the first call on this object reports all that
  // is open, what an earlier heterod knew too, before it returns. Not from the listener, which it waits for. Turns
  // multipath TCP off in the namespace.
  virtual absl::Status AddPod(const PodPorts& pod) = 0;
  virtual absl::Status RemovePod(const std::string& pod_key) = 0;
  virtual std::vector<std::string> ListPods() const = 0;

  // The other PU opened or closed a port. Idempotent. kFailedPrecondition with the local claim's text when this PU owns
  // an overlapping one that is older: the caller reports the conflict. kResourceExhausted beyond kMostClaimsOfAPod.
  virtual absl::Status SetRemote(const std::string& pod_key, const PortKey& key, bool owned, uint64_t epoch_ns) = 0;
  // Replaces all of the other PU's ports of this Pod (after a reconnect).
  virtual absl::Status ReplaceRemote(const std::string& pod_key, const std::vector<PortKey>& keys) = 0;

  virtual std::vector<OwnedPort> Local(const std::string& pod_key) const = 0;
  virtual std::vector<PortKey> Remote(const std::string& pod_key) const = 0;
  virtual std::optional<Refusal> LastRefusal(const std::string& pod_key) const = 0;

  struct Counters {
    uint64_t opened = 0, closed = 0, direct_connects = 0, lost_events = 0;
    uint64_t refused_binds = 0;       // the other PU owns the port
    uint64_t refused_over_share = 0;  // bind() of a Pod that has used its share
    uint64_t unowned_over_share = 0;  // sockets of such a Pod that could not be refused, so nobody owns their ports
    uint64_t comparisons = 0;         // walks through all claims: after lost events, and for Pods that change much
    uint64_t owned = 0;               // ports that have an owner on this PU now, of all Pods
  };
  virtual Counters counters() const = 0;
};

struct Options {
  std::string instance;  // see pu::OwnerTag
  std::string bpffs;     // a bpffs folder of this heterod's own, e.g. /run/heterok8s/bpf; mounted when it is not
  std::string cgroup2;   // empty: found in /proc/self/mountinfo, else mounted at <bpffs>/../cgroup2
};
using Listener = std::function<void(const PortChange&)>;
absl::StatusOr<std::unique_ptr<Ports>> NewBpfPorts(Options options, Listener listener);

}  // namespace heterok8s::ports
