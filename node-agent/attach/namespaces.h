// Network namespaces by path, as attach needs them.
//
// Purpose: the seam that lets the engines be tested without root. pod-d, the DPU half of a Pod that has no twin
// sandbox, is made here.
// Threading: thread-safe. Ownership: a namespace lives as long as its path, or a reference. Errors: Open: kNotFound
// when the path is gone. Delete: OK when it is gone.
//
//   std::unique_ptr<Namespaces> namespaces = NewKernelNamespaces();
//   HK_ASSIGN_OR_RETURN(sys::NetnsRef ns, namespaces->Open(request.netns));
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/status/status.h"
#include "common/sys/netns.h"

namespace heterok8s::attach {

class Namespaces {
 public:
  virtual ~Namespaces() = default;
  virtual absl::StatusOr<sys::NetnsRef> Open(const std::string& path) = 0;
  // The namespace at `path`, made when there is none.
  virtual absl::StatusOr<sys::NetnsRef> Ensure(const std::string& path) = 0;
  virtual absl::Status Delete(const std::string& path) = 0;
  // Paths of what lies in `folder`; empty when there is no such folder.
  virtual absl::StatusOr<std::vector<std::string>> List(const std::string& folder) = 0;
};

std::unique_ptr<Namespaces> NewKernelNamespaces();

}  // namespace heterok8s::attach
