// Network namespaces that the DPU's runtime made and forgot.
//
// Purpose: containerd makes a sandbox's namespace, /run/netns/cni-<uuid>, and writes its name down a moment later
// (1.6: pkg/cri/server/sandbox_run.go, between NewNetNS and container.Update). When it is killed in between, nobody
// knows of the namespace any more, and it stays until the machine restarts. On the DPU we are the only ones who look.
// What goes is what such a moment leaves and nothing else makes: the name of that form, every link down and without
// address (CNI was never called: its first plugin sets lo up), no thread in it, no attachment of ours, and all of that
// for `after`, which is far longer than the moment. Should a sandbox know of it all the same, containerd takes a
// namespace that is gone for one that it has removed itself. An empty file of that name (killed before the mount) too:
// but what is mounted in the runtime's mount namespace alone is an empty file to us, and to remove the file would take
// the mount away there (fs/namei.c, vfs_unlink: detach_mounts). So one goes only when the runtime's process is in our
// /proc, and no process there has anything mounted on a file of that name. Where the runtime is not seen, it stays.
// Threading: a thread of its own after Start; Round may be called instead by a test. Ownership: none kept.
// Errors: what cannot be looked at, or removed, stays and keeps no other from it; logged, once per path and reason.
// Round fails, and removes nothing, when it cannot have the lists that it goes by.
//
//   LostNamespaces lost({.attached = [&] { return PathsOf(ledger); }, .runtime = [] { return ListenerOf(kSocket); }});
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
  // The runtime's process, as /proc knows it here; see ListenerOf.
  std::function<absl::StatusOr<pid_t>()> runtime;
  std::chrono::seconds after{300};  // 0: nothing is ever removed
  std::chrono::seconds interval{60};
};

// The process that listens at a Unix socket. kNotFound when it is none of our /proc, kUnavailable when nobody listens.
absl::StatusOr<pid_t> ListenerOf(const std::string& socket_path);

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
    bool is_file;  // nothing is mounted there that we see
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
