#include "heteroctl/pod/subpath.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <thread>

#include "common/sys/file.h"
#include "heteroctl/pod/volumes.h"

namespace heterok8s::ctl {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFolder = "volume-subpaths";
constexpr int kTries =
    100;  // openat2(2) says EAGAIN when something was renamed meanwhile: a container may do that on purpose

absl::StatusOr<sys::UniqueFd> OpenBeneath(int folder, const std::string& path, int flags) {
  open_how how = {};
  how.flags = static_cast<uint64_t>(flags) | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  int fd = -1;
  for (int i = 0; i < kTries; ++i) {
    fd = static_cast<int>(syscall(SYS_openat2, folder, path.c_str(), &how, sizeof how));
    if (fd >= 0 || errno != EAGAIN) break;
  }
  if (fd >= 0) return sys::UniqueFd(fd);
  if (errno == EXDEV || errno == ELOOP)
    return absl::InvalidArgumentError(fmt::format("subPath '{}' leaves its volume", path));
  return ErrnoToStatus(errno, fmt::format("open subPath '{}'", path));
}

// Step by step, since each may be missing.
absl::StatusOr<sys::UniqueFd> OpenOrMake(int volume, const std::string& inside) {
  struct stat of_volume {};
  if (fstat(volume, &of_volume) != 0) return ErrnoToStatus(errno, "stat the volume");
  sys::UniqueFd at;
  fs::path so_far;
  for (const fs::path& part : fs::path(inside)) {
    if (part.empty() || part == ".") continue;
    const int parent = at.valid() ? at.get() : volume;
    so_far /= part;
    absl::StatusOr<sys::UniqueFd> next = OpenBeneath(volume, so_far, O_PATH);
    if (next.status().code() == absl::StatusCode::kNotFound) {
      const bool made = mkdirat(parent, part.c_str(), 0700) == 0;
      if (!made && errno != EEXIST) return ErrnoToStatus(errno, fmt::format("make subPath '{}'", so_far.string()));
      next = OpenBeneath(volume, so_far, O_RDONLY | O_DIRECTORY);
      // Of what we have open, wherever its name leads by now; the umask counts for mkdir, not here.
      if (made && next.ok() && fchmod(next->get(), of_volume.st_mode & 07777) != 0)
        return ErrnoToStatus(errno, fmt::format("mode of subPath '{}'", so_far.string()));
    }
    HK_ASSIGN_OR_RETURN(at, std::move(next));
  }
  if (!at.valid()) return absl::InvalidArgumentError(fmt::format("subPath '{}' names nothing", inside));
  return at;
}

// Something to mount on: a file on a file, a folder on a folder.
absl::Status MakeTarget(const std::string& path, bool folder) {
  std::error_code error;
  fs::create_directories(folder ? fs::path(path) : fs::path(path).parent_path(), error);
  if (error) return ErrnoToStatus(error.value(), fmt::format("make '{}'", path));
  return folder ? absl::OkStatus() : sys::WriteFileAtomic(path, "", 0600);
}

absl::Status Bind(const sys::UniqueFd& what, const std::string& target) {
  // Of the descriptor, which no rename changes. Not by /proc/self/fd: a PU's /proc does not know us.
  sys::UniqueFd tree(open_tree(what.get(), "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH));
  if (!tree.valid() || move_mount(tree.get(), "", AT_FDCWD, target.c_str(), MOVE_MOUNT_F_EMPTY_PATH) != 0)
    return ErrnoToStatus(errno, fmt::format("mount a subPath at '{}'", target));
  return absl::OkStatus();
}

absl::Status Hold(const SubPath& sub_path) {
  sys::UniqueFd volume(open(sub_path.volume.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!volume.valid()) return ErrnoToStatus(errno, fmt::format("open volume '{}'", sub_path.volume));
  HK_ASSIGN_OR_RETURN(sys::UniqueFd found, OpenOrMake(volume.get(), sub_path.inside));
  struct stat info {};
  if (fstat(found.get(), &info) != 0) return ErrnoToStatus(errno, fmt::format("stat subPath '{}'", sub_path.inside));
  HK_RETURN_IF_ERROR(MakeTarget(sub_path.held, S_ISDIR(info.st_mode)));
  return Bind(found, sub_path.held);
}

absl::Status Release(const std::string& pod_folder) {
  std::error_code gone;
  for (fs::directory_iterator volume(pod_folder + "/" + kFolder, gone), end; !gone && volume != end;
       volume.increment(gone)) {
    std::error_code none;
    for (fs::directory_iterator container(volume->path(), none); !none && container != end; container.increment(none)) {
      std::error_code nothing;
      for (fs::directory_iterator at(container->path(), nothing); !nothing && at != end; at.increment(nothing)) {
        // EINVAL: no mount, or not any more.
        if (umount2(at->path().c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0 && errno != EINVAL && errno != ENOENT)
          return ErrnoToStatus(errno, fmt::format("unmount '{}'", at->path().string()));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<SubPath> SubPathsOf(const manifest::Pod& pod, const manifest::Container& container,
                                const std::string& pod_folder) {
  std::vector<SubPath> found;
  for (size_t i = 0; i < container.mounts.size(); ++i) {
    const manifest::VolumeMount& mount = container.mounts[i];
    auto volume = std::find_if(pod.volumes.begin(), pod.volumes.end(),
                               [&](const manifest::Volume& each) { return each.name == mount.name; });
    if (mount.sub_path.empty() || volume == pod.volumes.end() || volume->kind == manifest::Volume::Kind::kConfigMap)
      continue;
    found.push_back({VolumePath(pod_folder, *volume), mount.sub_path,
                     fmt::format("{}/{}/{}/{}/{}", pod_folder, kFolder, mount.name, container.name, i)});
  }
  return found;
}

absl::StatusOr<FileView> ViewOf(const std::string& proc) {
  FileView view;
  const std::string ns = proc + "/ns/mnt", root = proc + "/root";
  view.ns = sys::UniqueFd(open(ns.c_str(), O_RDONLY | O_CLOEXEC));
  if (!view.ns.valid()) return ErrnoToStatus(errno, fmt::format("open '{}'", ns));
  view.root = sys::UniqueFd(open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!view.root.valid()) return ErrnoToStatus(errno, fmt::format("open '{}'", root));
  return view;
}

absl::StatusOr<FileView> ViewOfListener(const std::string& socket) {
  std::string path = socket;
  for (const char* scheme : {"unix://", "unix:"}) {
    if (path.rfind(scheme, 0) == 0) path.erase(0, strlen(scheme));
  }
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return absl::InvalidArgumentError(fmt::format("'{}' is too long", path));
  memcpy(address.sun_path, path.data(), path.size());
  sys::UniqueFd connection(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!connection.valid() || connect(connection.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return ErrnoToStatus(errno, fmt::format("connect to '{}'", path));
  ucred peer = {};
  socklen_t size = sizeof peer;
  if (getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.pid <= 0)
    return absl::NotFoundError(fmt::format("who listens on '{}' is not to be seen from here", path));
  return ViewOf(fmt::format("/proc/{}", peer.pid));
}

absl::Status InView(const FileView& view, const std::function<absl::Status()>& work) {
  struct stat ours {
  }, theirs{};
  if (stat("/proc/thread-self/ns/mnt", &ours) != 0 || fstat(view.ns.get(), &theirs) != 0)
    return ErrnoToStatus(errno, "stat mount namespaces");
  // Not entered again: that would lead out of a chroot.
  if (ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino) return work();
  absl::Status status;
  std::thread([&] {
    // setns(2) refuses a thread that shares its root and working directory with others.
    // It leads to the root of the namespace, which is not that of a process in a chroot.
    if (unshare(CLONE_FS) != 0 || setns(view.ns.get(), CLONE_NEWNS) != 0 || fchdir(view.root.get()) != 0 ||
        chroot(".") != 0)
      status = ErrnoToStatus(errno, "enter the runtime's mount namespace");
    else
      status = work();
  }).join();
  return status;
}

absl::Status HoldSubPath(const FileView& view, const SubPath& sub_path) {
  return InView(view, [&] { return Hold(sub_path); });
}

absl::Status ReleaseSubPaths(const FileView& view, const std::string& pod_folder) {
  return InView(view, [&] { return Release(pod_folder); });
}

bool HadSubPaths(const std::string& pod_folder) {
  struct stat info {};
  return lstat((pod_folder + "/" + kFolder).c_str(), &info) == 0;
}

}  // namespace heterok8s::ctl
