#include "common/netfilter/probe.h"

#include <atomic>

#include "common/netfilter/nft_script.h"

namespace heterok8s::netfilter {

absl::StatusOr<bool> HasSocketMatch() {
  enum { kUnknown, kNo, kYes };
  static std::atomic<int> answer{kUnknown};
  if (answer == kUnknown) {
    // Made and deleted in one transaction: nobody ever sees it.
    absl::Status tried = RunScript(
        "add table inet heterok8s_probe\n"
        "add chain inet heterok8s_probe c { type filter hook prerouting priority mangle; }\n"
        "add rule inet heterok8s_probe c socket wildcard 0-1 accept\n"
        "delete table inet heterok8s_probe\n");
    if (tried.code() == absl::StatusCode::kPermissionDenied) return tried;
    answer = tried.ok() ? kYes : kNo;
  }
  return answer == kYes;
}

}  // namespace heterok8s::netfilter
