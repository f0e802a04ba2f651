// Leaving a call of the library without returning: jumps out of signal handlers, and threads that end in one. Nothing
// is done for all other jumps but a look at two words.
#include <pthread.h>
#include <setjmp.h>

#include "heterosock/hooks/hook.h"
#include "heterosock/lib/jump.h"
#include "heterosock/lib/real.h"

using namespace heterok8s::heterosock;  // NOLINT

namespace {

// Inside one of our calls, where only a signal handler can run code of the program.
bool Inside() { return !thread_state.held.empty() || thread_state.asleep != 0 || thread_state.waits_in != 0; }

void BeforeJump(const void* env) {
  if (Inside() && thread_state.in_vfork == 0) [[unlikely]]
    LeaveFrames(JumpTarget::Of(env));
}

}  // namespace

HETEROSOCK_EXPORT void longjmp(jmp_buf env, int value) {
  BeforeJump(env);
  real.longjmp(env, value);
  __builtin_unreachable();
}
HETEROSOCK_EXPORT void _longjmp(jmp_buf env, int value) {
  BeforeJump(env);
  real._longjmp(env, value);
  __builtin_unreachable();
}
HETEROSOCK_EXPORT void siglongjmp(sigjmp_buf env, int value) {
  BeforeJump(env);
  real.siglongjmp(env, value);
  __builtin_unreachable();
}
// What the three are called when a program was compiled with _FORTIFY_SOURCE.
HETEROSOCK_EXPORT [[noreturn]] void __longjmp_chk(jmp_buf env, int value) {
  BeforeJump(env);
  real.__longjmp_chk(env, value);
  __builtin_unreachable();
}

HETEROSOCK_EXPORT void pthread_exit(void* result) {
  if (Inside()) LeaveFrames(JumpTarget::End());
  real.pthread_exit(result);
  __builtin_unreachable();
}
