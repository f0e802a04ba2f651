// Work inside network namespaces.
//
// Purpose: run a function with another network namespace current, make and remove named ones.
// Threading: every function may be called from any thread, in any namespace. InNetns runs `fn` on the caller's thread,
// which is back in its own namespace when InNetns returns or `fn` throws: a thread of its own would be two hand-overs
// between CPUs, which take longer than most of what is done inside. A thread that the kernel does not let back ends the
// process, as it must not go on in a Pod. Threads that `fn` starts begin, and stay, in `ns`.
// Ownership: NetnsRef holds the namespace open by a file descriptor; it stays alive while the reference lives.
// Errors: kNotFound when the path is gone, kInvalidArgument when it is no network namespace.
//
//   HK_ASSIGN_OR_RETURN(NetnsRef ns, NetnsRef::Open("/run/netns/pod-a"));
//   HK_RETURN_IF_ERROR(InNetns(ns, [&] { return netlink.SetUp("lo"); }));
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "common/status/status.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::sys {

class NetnsRef {
 public:
  static absl::StatusOr<NetnsRef> Open(const std::string& path);
  // The namespace of the calling thread.
  static absl::StatusOr<NetnsRef> Current();

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }
  // Inode of the namespace: equal for two references exactly when they are the same namespace.
  uint64_t inode() const { return inode_; }

 private:
  NetnsRef(UniqueFd fd, std::string path, uint64_t inode) : fd_(std::move(fd)), path_(std::move(path)), inode_(inode) {}

  UniqueFd fd_;
  std::string path_;
  uint64_t inode_ = 0;
};

// Runs `fn` with `ns` current and returns what it returned.
absl::Status InNetns(const NetnsRef& ns, const std::function<absl::Status()>& fn);

// The cookie by which BPF programs know `ns` (bpf_get_netns_cookie). Kernel >= 5.14 for SO_NETNS_COOKIE.
absl::StatusOr<uint64_t> NetnsCookie(const NetnsRef& ns);

// Makes a new namespace with lo up and binds it at `path` (its folder is made when missing). kAlreadyExists when
// `path` is a mounted namespace already. A leftover plain file from an interrupted call is taken over.
absl::StatusOr<NetnsRef> CreateNetns(const std::string& path);

// Unmounts and removes `path`. OK when it is gone already.
absl::Status DeleteNetns(const std::string& path);

}  // namespace heterok8s::sys
