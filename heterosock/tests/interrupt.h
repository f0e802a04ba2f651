// Stops a call of the library at any of its system calls, so that a case can have something happen just then.
//
// The system calls of the library are caught by syscall user dispatch
// (Documentation/admin-guide/syscall-user-dispatch.rst), which lets the ones of libc pass. On plain libc, on other
// machines than x86-64, and where the kernel has none of it (before Linux 5.11), nothing is caught.
//
// Threading: one thread of a process at a time. Errors: nothing is caught.
//
//   bool stopped = StopAt(3, [&] { n = recv(fd, &byte, 1, 0); }, [&] { e.Meet(), e.Meet(); });
#pragma once

#include <sys/syscall.h>

#include <functional>

namespace heterok8s::heterosock::behaviour {

// Runs `what`, and `then` in front of the library's system call number `at` (from 1) in it, in a signal handler on the
// same thread: the library may hold a lock of the connection. False when it makes fewer.
bool StopAt(int at, const std::function<void()>& what, const std::function<void()>& then);

// syscall(2) of libc itself, past the library.
using RawSyscall = long (*)(long number, ...);
extern const RawSyscall libc_syscall;

}  // namespace heterok8s::heterosock::behaviour
