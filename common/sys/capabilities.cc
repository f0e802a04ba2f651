#include "common/sys/capabilities.h"

#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

namespace heterok8s::sys {

absl::Status KeepCapabilities(std::initializer_list<int> kept) {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct data[2]{};
  if (syscall(SYS_capget, &header, data) != 0) return ErrnoToStatus(errno, "read capabilities");
  const bool may_limit = (data[0].effective & (1u << CAP_SETPCAP)) != 0;
  for (int cap = 0; cap < 64; ++cap) {
    if (std::find(kept.begin(), kept.end(), cap) != kept.end()) continue;
    // Without CAP_SETPCAP nobody may touch the bounding set: a container's or user's own limits hold then.
    if (may_limit && prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1 && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0) {
      return ErrnoToStatus(errno, fmt::format("drop capability {} from the bounding set", cap));
    }
    const uint32_t bit = 1u << (cap % 32);
    data[cap / 32].effective &= ~bit;
    data[cap / 32].permitted &= ~bit;
    data[cap / 32].inheritable &= ~bit;
  }
  if (syscall(SYS_capset, &header, data) != 0) return ErrnoToStatus(errno, "drop capabilities");
  return absl::OkStatus();
}

}  // namespace heterok8s::sys
