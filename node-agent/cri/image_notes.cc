#include "node-agent/cri/image_notes.h"

namespace heterok8s::cri {
namespace {

// kubelet asks for "nginx:latest" and then calls the image "nginx", as the Pod does (applyDefaultImageTag() in
// pkg/util/parsers of Kubernetes 1.34).
std::string Tagged(const std::string& name) {
  const size_t slash = name.rfind('/');
  const size_t last = slash == std::string::npos ? 0 : slash + 1;
  return name.find_first_of(":@", last) == std::string::npos ? name + ":latest" : name;
}

template <typename Notes>
Notes& WithRoom(Notes& notes) {
  if (notes.size() >= ImageNotes::kMost) notes.clear();
  return notes;
}

}  // namespace

void ImageNotes::OnlyOnDpu(const std::string& id, const std::string& name) {
  std::lock_guard lock(mutex_);
  WithRoom(only_on_dpu_)[id] = name;
}

void ImageNotes::HostLacks(const std::string& image) {
  std::lock_guard lock(mutex_);
  auto found = only_on_dpu_.find(image);
  if (found == only_on_dpu_.end()) return;
  WithRoom(must_pull_).insert(Tagged(found->second));
  only_on_dpu_.erase(found);
}

void ImageNotes::DpuLacks(const std::string& name) {
  std::lock_guard lock(mutex_);
  WithRoom(must_pull_).insert(Tagged(name));
}

bool ImageNotes::TakeMustPull(const std::string& name) {
  std::lock_guard lock(mutex_);
  return must_pull_.erase(Tagged(name)) != 0;
}

void ImageNotes::DpuIsBehind(const std::string& name) {
  std::lock_guard lock(mutex_);
  WithRoom(behind_).insert(Tagged(name));
}

void ImageNotes::DpuPulled(const std::string& name) {
  std::lock_guard lock(mutex_);
  behind_.erase(Tagged(name));
}

bool ImageNotes::IsDpuBehind(const std::string& name) const {
  std::lock_guard lock(mutex_);
  return behind_.contains(Tagged(name));
}

}  // namespace heterok8s::cri
