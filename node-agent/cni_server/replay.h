// The DELs that heterok8s-cni queued while heterod was away.
//
// Purpose: carry out what lies in the queue folder, oldest first, and whatever appears there later (inotify).
// A file stays until its DEL has succeeded; a DEL that fails is tried again every kRetry. A file that is no request is
// set aside under "<name>.bad", where nothing looks but a person.
// Threading: one thread of its own between Start and Stop. Ownership: borrows `serve`'s targets. Errors: Start's are
// about the folder; those of DELs are logged.
//
//   QueueReplay replay("/var/lib/heterok8s/cni-queue",
//                      [&](const cni::WireRequest& request, const std::string& file) { return ...; });
//   HK_RETURN_IF_ERROR(replay.Start());   // returns after the first pass over the folder
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <thread>

#include "common/cni/wire.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::cni_server {

class QueueReplay {
 public:
  // Carries out the request that `file` held when it was read, unless the file is gone by then, and removes the file.
  using Serve = std::function<absl::Status(const cni::WireRequest& request, const std::string& file)>;
  static constexpr std::chrono::milliseconds kRetry{5000};

  QueueReplay(std::string folder, Serve serve) : folder_(std::move(folder)), serve_(std::move(serve)) {}
  ~QueueReplay() { Stop(); }

  absl::Status Start();
  void Stop();

 private:
  // True when nothing is left that must be tried again.
  bool Pass();
  bool ReplayFile(const std::string& name);
  void Watch(bool settled);

  const std::string folder_;
  const Serve serve_;
  sys::UniqueFd inotify_, stop_;
  std::thread thread_;
};

}  // namespace heterok8s::cni_server
