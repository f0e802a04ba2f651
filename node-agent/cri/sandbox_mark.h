// Which of the host's sandboxes say what heterocri decided, and which what their Pod's author claims.
//
// Purpose: what heterocri must know of a sandbox after a restart is in the sandbox's annotations. One that was made
// before heterocri stood between kubelet and the runtime has its author's instead, who could send kubelet to read, and
// heterocri to write, any file of the host as a log. So each sandbox that we make bears a code of what we decided,
// under a key that only root of this Node has.
// Threading: thread-safe. Ownership: copies. Errors: of the key file.
//
//   HK_ASSIGN_OR_RETURN(SandboxMark mark, SandboxMark::Open("/var/lib/heterok8s/cri.key"));
//   annotations[kMark] = mark.Of(metadata, annotations);   // after all others
//   if (mark.Made(sandbox.metadata(), sandbox.annotations())) …
#pragma once

#include <string>

#include "common/status/status.h"
#include "proto/cri/v1/cri.pb.h"

namespace heterok8s::cri {

class SandboxMark {
 public:
  using Annotations = google::protobuf::Map<std::string, std::string>;

  // The key is made when there is none. One that is damaged is replaced: Pods that the table
  // has no twin of then count as made without heterocri.
  static absl::StatusOr<SandboxMark> Open(const std::string& key_file);
  explicit SandboxMark(std::string key) : key_(std::move(key)) {}

  std::string Of(const runtime::v1::PodSandboxMetadata& metadata, const Annotations& annotations) const;
  // Whether `annotations` have the mark of this very Pod and of what they say.
  bool Made(const runtime::v1::PodSandboxMetadata& metadata, const Annotations& annotations) const;

 private:
  std::string key_;
};

}  // namespace heterok8s::cri
