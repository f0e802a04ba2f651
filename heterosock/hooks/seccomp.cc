// Programs that give up system calls, or the reading of clocks, once they have all they need. A filter knows what the
// program calls, and nothing of what the library makes of that; so the connections are the kernel's before it is there.
// Filters that the program was started with must let the library's calls pass (heterosock/README.md).
#include <linux/seccomp.h>
#include <stdarg.h>
#include <sys/prctl.h>

#include "heterosock/hooks/hook.h"
#include "heterosock/lib/real.h"
#include "heterosock/upgrade/upgrade.h"

using namespace heterok8s::heterosock;  // NOLINT

namespace heterok8s::heterosock {

void BeforeRestriction() {
  if (process.restricted.load()) return;
  NoticeFork();
  DisableProcess(Reason::kSeccomp);
  SettleAll();
  RetireAll();
  process.restricted.store(true);
}

}  // namespace heterok8s::heterosock

HETEROSOCK_EXPORT int prctl(int option, ...) {
  va_list arguments;
  va_start(arguments, option);
  const unsigned long a = va_arg(arguments, unsigned long);
  const unsigned long b = va_arg(arguments, unsigned long);
  const unsigned long c = va_arg(arguments, unsigned long);
  const unsigned long d = va_arg(arguments, unsigned long);
  va_end(arguments);
  // Without a filter it is a question (libseccomp asks so): the kernel answers EFAULT.
  const bool seccomp = option == PR_SET_SECCOMP && (a == SECCOMP_MODE_STRICT || b != 0);
  const bool clock = option == PR_SET_TSC && a == PR_TSC_SIGSEGV;
  if ((seccomp || clock) && thread_state.in_vfork == 0) BeforeRestriction();
  return real.prctl(option, a, b, c, d);
}
