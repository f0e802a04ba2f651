#include "common/sys/netns.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <absl/cleanup/cleanup.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "common/sys/unbound_netns.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71  // asm-generic/socket.h, kernel 5.14
#endif

namespace heterok8s::sys {
namespace {

bool IsNamespaceFile(const std::string& path) {
  struct statfs fs {};
  return statfs(path.c_str(), &fs) == 0 && fs.f_type == NSFS_MAGIC;
}

}  // namespace

absl::StatusOr<NetnsRef> NetnsRef::Open(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoToStatus(errno, fmt::format("open network namespace '{}'", path));
  struct statfs fs {};
  struct stat st {};
  if (fstatfs(fd.get(), &fs) != 0 || fstat(fd.get(), &st) != 0) {
    return ErrnoToStatus(errno, fmt::format("stat '{}'", path));
  }
  if (fs.f_type != NSFS_MAGIC) {
    // DEL often meets the empty file that a removed namespace leaves behind: to the caller it is gone.
    return absl::NotFoundError(fmt::format("'{}' is not a network namespace", path));
  }
  return NetnsRef(std::move(fd), path, st.st_ino);
}

absl::StatusOr<NetnsRef> NetnsRef::Current() {
  // thread-self, not self: a thread of this process may be elsewhere.
  return Open("/proc/thread-self/ns/net");
}

absl::Status InNetns(const NetnsRef& ns, const std::function<absl::Status()>& fn) {
  absl::StatusOr<NetnsRef> home = NetnsRef::Current();
  if (!home.ok()) return home.status();
  if (setns(ns.fd(), CLONE_NEWNET) != 0) {
    return ErrnoToStatus(errno, fmt::format("enter network namespace '{}'", ns.path()));
  }
  absl::Cleanup go_home = [&] {
    if (setns(home->fd(), CLONE_NEWNET) == 0) return;
    fmt::print(stderr, "cannot leave network namespace '{}' ({}): what this thread does next would happen in there\n",
               ns.path(), strerror(errno));
    abort();
  };
  return fn();
}

absl::StatusOr<uint64_t> NetnsCookie(const NetnsRef& ns) {
  uint64_t cookie = 0;
  HK_RETURN_IF_ERROR(InNetns(ns, [&]() -> absl::Status {
    UniqueFd socket_fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    socklen_t length = sizeof cookie;
    if (!socket_fd.valid() || getsockopt(socket_fd.get(), SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &length) != 0) {
      return ErrnoToStatus(errno, fmt::format("read cookie of network namespace '{}'", ns.path()));
    }
    return absl::OkStatus();
  }));
  return cookie;
}

absl::StatusOr<NetnsRef> CreateNetns(const std::string& path) {
  if (IsNamespaceFile(path)) return absl::AlreadyExistsError(fmt::format("network namespace '{}' exists", path));
  HK_ASSIGN_OR_RETURN(NetnsRef made, CreateUnboundNetns());
  return BindNetns(made, path);
}

absl::Status DeleteNetns(const std::string& path) {
  while (IsNamespaceFile(path)) {
    if (umount2(path.c_str(), MNT_DETACH) != 0) return ErrnoToStatus(errno, fmt::format("unmount '{}'", path));
  }
  if (unlink(path.c_str()) != 0 && errno != ENOENT) return ErrnoToStatus(errno, fmt::format("remove '{}'", path));
  return absl::OkStatus();
}

}  // namespace heterok8s::sys
