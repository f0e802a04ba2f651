#include "heterosock/lib/jump.h"

#include <setjmp.h>
#include <signal.h>

#include "heterosock/epoll/registry.h"
#include "heterosock/notify/spin.h"
#include "heterosock/ofd/lock.h"
#include "heterosock/stream/sleepers.h"

namespace heterok8s::heterosock {
namespace {

// The stack pointer as setjmp() kept it. Both libcs have it at the same place of their structures (JB_RSP in glibc's
// sysdeps/x86_64/jmpbuf-offsets.h, musl's src/setjmp/x86_64/setjmp.s); glibc hides it behind a secret of the process.
uintptr_t KeptStackPointer(const void* env) {
  const auto* words = static_cast<const uintptr_t*>(env);
#if defined(__x86_64__)
  uintptr_t kept = words[6];
#if defined(__GLIBC__)
  // PTR_DEMANGLE in sysdeps/unix/sysv/linux/x86_64/pointer_guard.h; the secret is tcbhead_t::pointer_guard.
  asm("rorq $17, %0\n\txorq %%fs:0x30, %0" : "+r"(kept) : : "cc");
#endif
  return kept;
#elif defined(__aarch64__)
  uintptr_t kept = words[13];
#if defined(__GLIBC__)
  jmp_buf here;
  uintptr_t now;
  if (_setjmp(here) != 0) return 0;
  asm volatile("mov %0, sp" : "=r"(now));
  kept ^= reinterpret_cast<const uintptr_t*>(&here)[13] ^ now;  // the secret: what hides a place that we know
#endif
  return kept;
#endif
}

}  // namespace

JumpTarget JumpTarget::Of(const void* env) {
  stack_t alternate = {};
  Syscall(SYS_sigaltstack, 0, reinterpret_cast<long>(&alternate));
  const bool none = (alternate.ss_flags & SS_DISABLE) != 0;
  return JumpTarget(KeptStackPointer(env), reinterpret_cast<uintptr_t>(alternate.ss_sp), none ? 0 : alternate.ss_size);
}

void LeaveFrames(const JumpTarget& target) {
  const int saved = errno;
  thread_state.held.Unwind([&](uintptr_t stack) { return target.Leaves(stack); },
                           [](const Held& held) {
                             if (held.what == nullptr) {
                               if (held.resting) Spinner::Abandon();
                               return;
                             }
                             static_cast<SharedLock*>(const_cast<void*>(held.what))->Abandon();
                           });
  if (thread_state.asleep != 0 && target.Leaves(thread_state.asleep_at)) LeaveAllBells();
  if (thread_state.waits_in != 0 && target.Leaves(thread_state.waits_at)) EpollLeaveWait();
  errno = saved;
}

}  // namespace heterok8s::heterosock
