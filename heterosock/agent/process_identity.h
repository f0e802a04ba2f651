// Who is at the other end of a Unix socket, in the kernel's own words.
//
// Purpose: the process, its cgroup and the Pod that the cgroup belongs to. A process may hold the socket that another
// opened; what counts is who connected, which is what SO_PEERCRED remembers.
// Threading: any thread. Errors: none: what cannot be known (another PID namespace, a process that is gone) is empty,
// and an empty cgroup matches no rule of the policy.
//
//   ProcessIdentity who = IdentifyPeer(connection);
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "common/sys/unique_fd.h"

namespace heterok8s::heterosock::agent {

struct ProcessIdentity {
  pid_t pid = 0;
  uid_t uid = 0;
  std::string command;         // /proc/PID/comm, for people
  std::string cgroup;          // path in the v2 hierarchy, or in a v1 one where v2 has the process in its root
  std::string pod_uid;         // from the cgroup's path; empty outside of Pods
  uint64_t pid_namespace = 0;  // inode of its PID namespace
};

ProcessIdentity IdentifyPeer(int unix_socket);
// This process; no pid and no command.
ProcessIdentity IdentifySelf();
// Whether `peer` may give orders to the process `own`: root of a container is root to the mode of a socket's file. Who
// is in another PID namespace, or in another Pod, may not; nor may one of whom that cannot be told, as of a process
// that the PID namespace of `own` does not contain, or where there is no /proc.
bool MayAdminister(const ProcessIdentity& peer, const ProcessIdentity& own);
// Its user alone, which takes no descriptor; -1 when there is none.
uid_t UserOfPeer(int unix_socket);
// A descriptor of that process; invalid when it is gone or in a PID namespace that this one does not contain.
sys::UniqueFd PidFdOfPeer(int unix_socket);

// "0a1b2c3d-…" for ".../kubepods-burstable-pod0a1b2c3d_….slice/…" and ".../pod0a1b2c3d-…/…"; empty for others,
// and below a user@UID.service, where users name cgroups as they like.
std::string PodUidOfCgroup(const std::string& cgroup);
// The cgroup of a /proc/PID/cgroup text; see ProcessIdentity::cgroup.
std::string CgroupOfText(const std::string& text);

}  // namespace heterok8s::heterosock::agent
