// What is remembered of images that one PU has and the other lacks.
//
// Purpose: kubelet asks for an image by name, and not which container of a Pod it is for. So "there" may be said of an
// image that only the wrong PU has, and only kubelet has the credentials to pull it. What such an answer leads to is
// noted here, and the next question about the name is answered so that kubelet pulls. In memory only: each note comes
// again with the failure that it is of, but DpuIsBehind: what that one is for, image_versions.h sees without a note
// wherever the runtimes say of which version their images are.
// Threading: thread-safe. Ownership: copies. Errors: none; beyond kMost names of a kind all of that kind are forgotten.
//
//   notes.OnlyOnDpu(status.image().id(), name);                  // ImageStatus was answered by the DPU alone
//   if (refused) notes.HostLacks(config.image().image());        // and then the host has no such image
//   if (notes.TakeMustPull(name)) …                              // ImageStatus: say that there is none
#pragma once

#include <map>
#include <mutex>
#include <set>
#include <string>

namespace heterok8s::cri {

class ImageNotes {
 public:
  static constexpr size_t kMost = 4096;

  // `id` is the DPU's of an image that the host does not have.
  void OnlyOnDpu(const std::string& id, const std::string& name);
  // The host has refused a container of this image, an id or a name. Without OnlyOnDpu nothing is noted.
  void HostLacks(const std::string& image);
  // The DPU cannot pull this name by itself.
  void DpuLacks(const std::string& name);
  // kubelet is to pull this name. True once for each failure: when that pull fails as well, what is there is taken.
  bool TakeMustPull(const std::string& name);

  // The DPU's pull of this name failed where the host's did not: by this name it may have an older image.
  void DpuIsBehind(const std::string& name);
  void DpuPulled(const std::string& name);
  bool IsDpuBehind(const std::string& name) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::string> only_on_dpu_;  // id -> name
  std::set<std::string> must_pull_, behind_;
};

}  // namespace heterok8s::cri
