// Copies of Pods' small volumes on the DPU: <root>/<pod uid>/<volume>/<content>.
//
// Purpose: a mount of a host folder becomes a mount of its copy. A copy is complete before it has its name, and is
// named by its content, so putting the same twice is free and a running container never sees a change. A live one is
// named "live" and does change: each of its top entries in one step, in the order that keeps kubelet's promise, that
// a program sees all files of one version. Half an update that a crash left is finished by the next one.
// What must not touch a disk lives under <root>/.memory/<pod uid>, a tmpfs of the Pod's own with room for 32 MiB,
// mounted when first needed; when all together have a share of the machine's memory there is no new copy, and a live
// one does not grow. An emptyDir in memory is a tmpfs too, for the life of the Pod (both root only). Threading:
// thread-safe. Errors: kInvalidArgument for names and links that leave the volume, kResourceExhausted when memory is
// full, else errno with the path.
//
//   HK_ASSIGN_OR_RETURN(std::string path, store.Put(request));   // becomes Mount.host_path
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "node-agent/cri/confined.h"
#include "node-agent/cri/volume_usage.h"
#include "proto/heterok8s/v1/runtime.pb.h"

namespace heterok8s::cri {

class VolumeStore {
 public:
  // `memory_bytes`: what all volumes in memory may have together; absent: an eighth of this machine's.
  static absl::StatusOr<VolumeStore> Open(const std::string& root, std::optional<uint64_t> memory_bytes = std::nullopt);
  VolumeStore(VolumeStore&& other) noexcept
      : root_(std::move(other.root_)),
        boot_id_(std::move(other.boot_id_)),
        memory_bytes_(other.memory_bytes_),
        memory_(std::move(other.memory_)),
        disk_(std::move(other.disk_)),
        walk_(std::move(other.walk_)) {}

  absl::StatusOr<std::string> Put(const v1::PutVolumeRequest& request);
  absl::StatusOr<std::string> Make(const v1::MakeVolumeRequest& request);
  // Of all that Make made and that are on a disk: as it is now, or what was found last when that takes longer.
  v1::UsedByVolumesReply Used(std::chrono::milliseconds patience);
  // `path` as Put or Make answered, or below it. kResourceExhausted when it is longer, unless its tail will do.
  absl::StatusOr<std::string> Get(const v1::GetFileRequest& request);
  absl::Status RemovePod(const std::string& pod_uid);

 private:
  VolumeStore(ConfinedRoot root, std::string boot_id, uint64_t memory_bytes)
      : root_(std::move(root)), boot_id_(std::move(boot_id)), memory_bytes_(memory_bytes) {}
  absl::Status MountMemory(const std::string& pod_uid);
  // Whether there is room for one more copy, or for what a live one grows by.
  absl::Status CheckMemory(const v1::PutVolumeRequest& request, const std::string& folder) const;
  absl::Status MountVolume(const std::string& relative, const v1::MakeVolumeRequest& request);
  absl::Status Write(const v1::VolumeEntry& entry, const std::string& base);
  // The content below `folder` under a name that nobody looks at yet; the caller renames or removes it.
  absl::StatusOr<std::string> WriteAside(const v1::PutVolumeRequest& request, const std::string& folder);
  absl::StatusOr<std::string> PutLive(const v1::PutVolumeRequest& request, const std::string& folder);
  v1::UsedByVolumesReply WalkAll(const std::atomic<bool>& stop) const;

  ConfinedRoot root_;
  std::string boot_id_;
  uint64_t memory_bytes_;
  std::atomic<uint64_t> counter_{0};
  // One copy at a time to each: a disk that hangs holds up no token in memory.
  std::unique_ptr<std::mutex> memory_ = std::make_unique<std::mutex>(), disk_ = std::make_unique<std::mutex>();
  std::unique_ptr<VolumeWalk> walk_ = std::make_unique<VolumeWalk>();  // last: its thread uses the root
};

}  // namespace heterok8s::cri
