#include "common/sys/unbound_netns.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <thread>

namespace heterok8s::sys {
namespace {

absl::Status BringLoopbackUp() {
  UniqueFd socket_fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket_fd.valid()) return ErrnoToStatus(errno, "open socket");
  ifreq request{};
  std::strncpy(request.ifr_name, "lo", sizeof request.ifr_name);
  request.ifr_flags = IFF_UP;
  if (ioctl(socket_fd.get(), SIOCSIFFLAGS, &request) != 0) return ErrnoToStatus(errno, "set lo up");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<NetnsRef> CreateUnboundNetns() {
  absl::StatusOr<NetnsRef> made = absl::InternalError("not run");
  std::thread worker([&] {
    if (unshare(CLONE_NEWNET) != 0) {
      made = ErrnoToStatus(errno, "make a network namespace");
      return;
    }
    absl::Status up = BringLoopbackUp();
    made = up.ok() ? NetnsRef::Current() : up;
  });
  worker.join();
  return made;
}

absl::StatusOr<NetnsRef> BindNetns(const NetnsRef& ns, const std::string& path) {
  if (NetnsRef::Open(path).ok()) return absl::AlreadyExistsError(fmt::format("network namespace '{}' exists", path));
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  UniqueFd file(open(path.c_str(), O_RDONLY | O_CREAT | O_CLOEXEC, 0444));
  if (!file.valid()) return ErrnoToStatus(errno, fmt::format("make '{}'", path));
  const std::string open_file = fmt::format("/proc/self/fd/{}", ns.fd());
  if (mount(open_file.c_str(), path.c_str(), nullptr, MS_BIND, nullptr) != 0) {
    absl::Status failed = ErrnoToStatus(errno, fmt::format("bind network namespace at '{}'", path));
    unlink(path.c_str());
    return failed;
  }
  return NetnsRef::Open(path);
}

}  // namespace heterok8s::sys
