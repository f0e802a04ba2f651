#include "heterosock/agent/process_identity.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "common/sys/file.h"
#include "common/sys/unique_fd.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77  // asm-generic/socket.h, kernel 6.5
#endif

namespace heterok8s::heterosock::agent {
namespace {

// A descriptor of the process that connected. Before 6.5 by its number, which may have been given to another process by
// now; a library connects and says HELLO at once, so that process would have to be born within microseconds.
sys::UniqueFd PidFd(int unix_socket, pid_t pid) {
  int fd = -1;
  socklen_t length = sizeof fd;
  if (getsockopt(unix_socket, SOL_SOCKET, SO_PEERPIDFD, &fd, &length) == 0) return sys::UniqueFd(fd);
  return sys::UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
}

bool HasEnded(int pidfd) {
  pollfd p{pidfd, POLLIN, 0};
  return poll(&p, 1, 0) != 0;
}

uint64_t PidNamespaceOf(const std::string& process) {
  struct stat st {};
  return stat(fmt::format("/proc/{}/ns/pid", process).c_str(), &st) == 0 ? st.st_ino : 0;
}

bool IsUidCharacter(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || c == '-' || c == '_'; }

}  // namespace

std::string PodUidOfCgroup(const std::string& cgroup) {
  std::istringstream parts(cgroup);
  for (std::string part; std::getline(parts, part, '/');) {
    // Below it a user makes cgroups of any name: systemd delegates it (systemd.resource-control(5), Delegate=).
    if (part.starts_with("user@") && part.ends_with(".service")) return "";
    if (part.ends_with(".slice")) part.resize(part.size() - 6);
    // cgroupfs: "pod<uid>"; systemd: "kubepods-burstable-pod<uid with '_' for '-'>".
    size_t at = part.starts_with("pod") ? 0 : part.rfind("-pod");
    if (at == std::string::npos) continue;
    std::string uid = part.substr(at + (at == 0 && part[0] == 'p' ? 3 : 4));
    if (uid.size() < 16 || uid.size() > 63 || !std::all_of(uid.begin(), uid.end(), IsUidCharacter)) continue;
    std::replace(uid.begin(), uid.end(), '_', '-');
    return uid;
  }
  return "";
}

std::string CgroupOfText(const std::string& text) {
  std::string unified, legacy;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (controllers.empty()) unified = path;
    if (controllers == "pids" || controllers == "memory" || controllers == "name=systemd") {
      if (legacy.size() < path.size()) legacy = path;
    }
  }
  return unified.size() > 1 || legacy.empty() ? unified : legacy;
}

ProcessIdentity IdentifySelf() {
  ProcessIdentity own{.uid = geteuid(), .pid_namespace = PidNamespaceOf("self")};
  if (absl::StatusOr<std::string> cgroup = sys::ReadFile("/proc/self/cgroup", 65536); cgroup.ok()) {
    own.cgroup = CgroupOfText(*cgroup);
    own.pod_uid = PodUidOfCgroup(own.cgroup);
  }
  return own;
}

bool MayAdminister(const ProcessIdentity& peer, const ProcessIdentity& own) {
  if (peer.pid <= 0 || own.pid_namespace == 0) return false;
  return peer.pid_namespace == own.pid_namespace && (peer.pod_uid.empty() || peer.pod_uid == own.pod_uid);
}

uid_t UserOfPeer(int unix_socket) {
  ucred peer{.pid = 0, .uid = static_cast<uid_t>(-1), .gid = 0};
  socklen_t length = sizeof peer;
  getsockopt(unix_socket, SOL_SOCKET, SO_PEERCRED, &peer, &length);
  return peer.uid;
}

sys::UniqueFd PidFdOfPeer(int unix_socket) {
  ucred peer{};
  socklen_t length = sizeof peer;
  if (getsockopt(unix_socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0 || peer.pid <= 0) return {};
  return PidFd(unix_socket, peer.pid);
}

ProcessIdentity IdentifyPeer(int unix_socket) {
  ucred peer{};
  socklen_t length = sizeof peer;
  if (getsockopt(unix_socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return {};
  ProcessIdentity who{.pid = peer.pid, .uid = peer.uid};
  if (peer.pid <= 0) return who;  // a PID namespace that this one does not contain
  sys::UniqueFd pidfd = PidFd(unix_socket, peer.pid);
  absl::StatusOr<std::string> cgroup = sys::ReadFile(fmt::format("/proc/{}/cgroup", peer.pid), 65536);
  absl::StatusOr<std::string> command = sys::ReadFile(fmt::format("/proc/{}/comm", peer.pid), 256);
  const uint64_t pid_namespace = PidNamespaceOf(std::to_string(peer.pid));
  // Alive after the reading, so what was read is this process's.
  if (!pidfd.valid() || HasEnded(pidfd.get())) return who;
  if (cgroup.ok()) who.cgroup = CgroupOfText(*cgroup);
  if (command.ok() && !command->empty()) who.command = command->substr(0, command->size() - 1);
  who.pod_uid = PodUidOfCgroup(who.cgroup);
  who.pid_namespace = pid_namespace;
  return who;
}

}  // namespace heterok8s::heterosock::agent
