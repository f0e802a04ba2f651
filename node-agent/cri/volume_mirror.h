// Volumes of Pods on the host whose copies on the DPU follow them: configMap, secret, projected, downwardAPI.
//
// Purpose: kubelet puts a new version of such a volume in place while containers use it (a token is renewed every
// hour); the copy on the DPU gets it too. Changes are seen by inotify; one that cannot be sent is sent again until it
// can. What is followed is remembered in links, <state>/<pod uid>/<volume> -> host path, so that a restart follows on.
// Threading: thread-safe; one thread of its own. Ownership: borrows the stub. Errors: logged, once per reason.
//
//   mirror.Follow(uid, "volumes+kubernetes.io~configmap+conf", "/var/lib/kubelet/pods/…/conf");
//   mirror.ForgetPod(uid);
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "common/status/status.h"
#include "common/sys/unique_fd.h"
#include "proto/heterok8s/v1/runtime.grpc.pb.h"

namespace heterok8s::cri {

class VolumeMirror {
 public:
  // `dpu_here`: nothing is sent while it is false.
  VolumeMirror(v1::DpuRuntime::StubInterface& stub, std::string folder, std::function<bool()> dpu_here);
  ~VolumeMirror() { Stop(); }
  absl::Status Start();
  void Stop();

  // The volume has just been put as it is now; from here on the copy follows it.
  absl::Status Follow(const std::string& pod_uid, const std::string& volume, const std::string& host_path);
  // Nothing of the Pod is on its way any more when this returns.
  void ForgetPod(const std::string& pod_uid);
  // After a restart: Pods that are not among `pod_uids` ended meanwhile.
  void KeepOnly(const std::set<std::string>& pod_uids);

  uint64_t updates() const { return updates_; }

 private:
  struct Key {
    std::string pod_uid, volume;
    auto operator<=>(const Key&) const = default;
  };
  struct Volume {
    std::string host_path;
    int watch = -1;
    bool changed = true;
    std::chrono::steady_clock::time_point next;  // not sent before
    std::string failure;                         // said once
  };
  void Watch(Volume& volume);  // mutex_ held
  void Loop();
  void ReadEvents();
  void SendOne();

  v1::DpuRuntime::StubInterface& stub_;
  const std::string folder_;
  std::function<bool()> dpu_here_;
  sys::UniqueFd inotify_, wake_;
  std::mutex sending_;  // held while a volume is on its way; taken before mutex_
  std::mutex mutex_;
  std::map<Key, Volume> volumes_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> updates_{0};
  std::thread thread_;
};

}  // namespace heterok8s::cri
