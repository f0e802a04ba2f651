// Logs of containers on the DPU, appended to the files on the host where kubelet looks for them.
//
// Purpose: one TailLog stream per container, resumed at the byte where the host's file ends. kubelet rotates by
// renaming the host's file and calling ReopenContainerLog; a small position file per container then says which byte of
// the DPU's log the new file begins with. It also holds the inode, so that a rotation that nobody told us about is
// seen. Threading: thread-safe; bytes are written on a thread for all logs (log_writer). Ownership: borrows `stub`,
// which must outlive it. Destruction cancels all streams and waits for them. Errors: a log that cannot be written is
// reported to the daemon's log and tried again at the next Ensure.
//
//   mirror.Ensure(id, "ns_pod_uid/c/0.log", "/var/log/pods/…/c/0.log", /*running=*/true);
//   mirror.Drain(id, std::chrono::seconds(2));   // the container has ended: its last lines are on the host
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "common/status/status.h"
#include "node-agent/cri/log_writer.h"
#include "proto/heterok8s/v1/runtime.grpc.pb.h"

namespace heterok8s::cri {

class MirroredLog;

class LogMirror {
 public:
  // `on_end` runs when the runtime has closed a log: its container has most likely ended.
  LogMirror(v1::DpuRuntime::StubInterface& stub, std::string position_folder, std::function<void()> on_end);
  ~LogMirror() { Close(); }
  // Ends all streams, and begins no others.
  void Close();

  // Keeps the log mirrored; starts again what has broken. `running`: the container may still write.
  void Ensure(const std::string& id, const std::string& dpu_path, const std::string& host_path, bool running);
  // Of a container that has ended: true when all its bytes are on the host.
  bool Drain(const std::string& id, std::chrono::milliseconds wait);
  // kubelet has moved the host's file away. Returns the offset up to which the DPU's bytes are on the host.
  absl::StatusOr<uint64_t> Reopen(const std::string& id);
  // The container is gone.
  void Forget(const std::string& id);
  // Forgets the logs of former lives that are of none of these containers: they went while we were not there.
  void KeepOnly(const std::set<std::string>& ids);

 private:
  std::shared_ptr<MirroredLog> Find(const std::string& id);
  std::string PositionPath(const std::string& id) const;

  v1::DpuRuntime::StubInterface& stub_;
  std::string position_folder_;
  std::function<void()> on_end_;
  LogWriter writer_;  // outlives all streams: Close waits for their ends
  std::mutex mutex_;
  bool closed_ = false;
  std::map<std::string, std::shared_ptr<MirroredLog>> logs_;
};

}  // namespace heterok8s::cri
