#include "heterosock/lib/real.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "heterosock/lib/next_symbol.h"

// Weak: before glibc 2.34 it is in libdl, which not every program has, and since then an image that is made of what its
// programs load has no libdl at all. So the library needs none, and asks for the version of before that, which libc
// still has: ld.so looks for a name and a version in all libraries, not in the one where the linker found it
// (check_match in glibc's elf/dl-lookup.c).
extern "C" __attribute__((weak)) decltype(dlsym) dlsym;
#if defined(__GLIBC__) && defined(__x86_64__)
__asm__(".symver dlsym, dlsym@GLIBC_2.2.5");
#elif defined(__GLIBC__) && defined(__aarch64__)
__asm__(".symver dlsym, dlsym@GLIBC_2.17");
#endif

namespace heterok8s::heterosock {
namespace {

void ResolveAll();

// The stub in every pointer until ResolveAll() ran.
template <auto Member>
struct Stub;
template <typename R, typename... A, R (*Real::*Member)(A...)>
struct Stub<Member> {
  static R Call(A... arguments) {
    ResolveAll();
    return (real.*Member)(arguments...);
  }
};

// What stands in when libc has no such function.
template <typename T>
struct Missing;
template <typename R, typename... A>
struct Missing<R (*)(A...)> {
  static R Call(A...) {
    errno = ENOSYS;
    return (R)(-1);
  }
};
template <typename... A>
struct Missing<FILE* (*)(A...)> {
  static FILE* Call(A...) {
    errno = ENOSYS;
    return nullptr;
  }
};

int RawEpollPwait2(int epfd, epoll_event* events, int max, const timespec* timeout, const sigset_t* mask) {
  return static_cast<int>(real.syscall(SYS_epoll_pwait2, epfd, reinterpret_cast<long>(events), max,
                                       reinterpret_cast<long>(timeout), reinterpret_cast<long>(mask), _NSIG / 8));
}
int RawCloseRange(unsigned first, unsigned last, int flags) {
  return static_cast<int>(real.syscall(SYS_close_range, first, last, flags, 0, 0, 0));
}

// After a look of the library's own.
void* Find(const char* name, const NextSymbolAnswer& next) {
  if (next.certain) return next.address;
  return dlsym != nullptr ? dlsym(RTLD_NEXT, name) : NextSymbolOfAny(name).address;
}

// The same function by the name without 64: since 1.2.4 musl gives the other to programs that ask for it (get_lfs64()
// in ldso/dynlink.c), Rust's among them, and says nothing of it to dlsym().
void* FindPlain(const char* name) {
  char plain[16];
  const char* six = strchr(name, '6');
  const size_t length = strlen(name);
  if (six == nullptr || six[1] != '4' || length >= sizeof plain) return nullptr;
  const auto before = static_cast<size_t>(six - name);
  memcpy(plain, name, before);
  memcpy(plain + before, six + 2, length - before - 1);  // with its end
  return Find(plain, NextSymbol(plain));
}

template <typename F>
void Resolve(F& pointer, const char* name, F fallback) {
  // Of what only newer ones have there is none behind libc, where this must not look: it may be within a malloc.
  void* found = Find(name, NextSymbol(name));
  if (found == nullptr) found = FindPlain(name);
  __atomic_store_n(&pointer, found != nullptr ? reinterpret_cast<F>(found) : fallback, __ATOMIC_RELAXED);
}

// May run in several threads at once: all find the same.
void ResolveAll() {
  const int saved = errno;
#define HETEROSOCK_RESOLVE(name, type, parameters) \
  Resolve(real.name, #name, static_cast<decltype(real.name)>(&Missing<decltype(real.name)>::Call));
  HETEROSOCK_REAL_FUNCTIONS(HETEROSOCK_RESOLVE)
#undef HETEROSOCK_RESOLVE
  Resolve(real.epoll_pwait2, "epoll_pwait2", &RawEpollPwait2);
  Resolve(real.close_range, "close_range", &RawCloseRange);
  errno = saved;
}

}  // namespace

void* NextFunction(const char* name) {
  NextSymbolAnswer next = NextSymbol(name);
  if (next.certain && next.address == nullptr) next = NextSymbolOfAny(name);
  return Find(name, next);
}

#define HETEROSOCK_STUB(name, type, parameters) &Stub<&Real::name>::Call,
constinit Real real = {HETEROSOCK_REAL_FUNCTIONS(HETEROSOCK_STUB)};
#undef HETEROSOCK_STUB

}  // namespace heterok8s::heterosock
