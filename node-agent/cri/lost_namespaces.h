// Network namespaces that the DPU's runtime made and forgot.
//
// Purpose: containerd makes a sandbox's namespace, /run/netns/cni-<uuid>, and writes its name down a moment later
// (1.6: pkg/cri/server/sandbox_run.go, between NewNetNS and container.Update). When it is killed in between, nobody
// knows of the namespace any more, and it stays until the machine restarts. On the DPU we are the only ones who look.
// What goes is what such a moment leaves and nothing else makes: the name of that form, every link down and without
// address (CNI was never called: its first plugin sets lo up), no thread in it, no attachment of ours, and all of that
// for `after`, which is far longer than the moment. Should a sandbox know of it all the same, containerd takes a
// namespace that is gone for one that it has removed itself. An empty file of that name (killed before the mount) too.
// Threading: a thread of its own after Start; Round may be called instead by a test. Ownership: none kept.
// Errors: what cannot be looked at, or removed, stays and keeps no other from it; logged, once per path and reason.
// Round fails, and removes nothing, when it cannot have the lists that it goes by.
//
//   LostNamespaces lost({.attached = [&] { return PathsOf(ledger); }});
//   lost.Start();
#pragma once

#include <sys/types.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "common/status/status.h"

namespace heterok8s::cri {

struct LostNamespacesOptions {
  std::string folder = "/run/netns";
  // Paths of namespaces that attachments have; only their last part counts (/var/run is /run).
  std::function<absl::StatusOr<std::vector<std::string>>()> attached;
  std::chrono::seconds after{300};  // 0: nothing is ever removed
  std::chrono::seconds interval{60};
};

class LostNamespaces {
 public:
  using Clock = std::chrono::steady_clock;

  explicit LostNamespaces(LostNamespacesOptions options) : options_(std::move(options)) {}
  ~LostNamespaces() { Stop(); }
  void Start();
  void Stop();

  // One look, and what follows from it. Returns the paths that were removed.
  absl::StatusOr<std::vector<std::string>> Round(Clock::time_point now);

 private:
  struct Seen {
    ino_t inode;
    Clock::time_point since;
  };
  const LostNamespacesOptions options_;
  std::map<std::string, Seen> seen_;              // by path: what looked lost in the latest round
  std::map<std::string, absl::Status> failures_;  // by path: what the latest round could not do
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace heterok8s::cri
