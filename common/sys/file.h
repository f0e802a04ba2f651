// Small files: read, write atomically, set a sysctl.
//
// Threading: any thread. Ownership: no descriptor outlives its call. Errors: errno as a Status that names the path.
//
//   HK_RETURN_IF_ERROR(WriteFileAtomic("/etc/cni/net.d/10-heterok8s.conflist", text, 0644));
//   HK_RETURN_IF_ERROR(InNetns(ns, [] { return SetSysctl("net.ipv4.conf.eth0.accept_local", "1"); }));
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "common/status/status.h"

namespace heterok8s::sys {

// The whole file; kResourceExhausted when it is longer than `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes = 16u << 20);

// Writes a temporary file beside `path`, syncs it, renames it over `path` and syncs the folder: a reader and a crash
// see the old text or the new one.
absl::Status WriteFileAtomic(const std::string& path, std::string_view text, mode_t mode);

// Removes what a process that died within WriteFileAtomic(path) left beside `path`. No other may write there meanwhile.
void RemoveUnfinished(const std::string& path);

// Writes /proc/sys/<name with dots as slashes>. A name part that holds a dot (an interface "eth0.100") is written
// with slashes by the caller: "net/ipv4/conf/eth0.100/rp_filter". Of the calling thread's network namespace.
absl::Status SetSysctl(std::string_view name, std::string_view value);
// As SetSysctl, but a value that is there already is not written. For those (forwarding, disable_ipv6) that the kernel
// changes under its network lock: it does not wait for that lock but tries for it again and again (restart_syscall() in
// devinet.c and addrconf.c), so such a write keeps a CPU busy for as long as others have it.
absl::Status EnsureSysctl(std::string_view name, std::string_view value);

}  // namespace heterok8s::sys
