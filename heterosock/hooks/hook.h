// What every wrapper begins with.
//
//   HETEROSOCK_OWN_FRAME ssize_t Read(int fd, void* buffer, size_t bytes) {
//     uint32_t slot;
//     if (!StreamOf(fd, &slot)) return real.read(fd, buffer, bytes);
//     ...
//   }
//   HETEROSOCK_EXPORT ssize_t read(int fd, void* buffer, size_t bytes) {
//     return LooksTracked(fd) ? Read(fd, buffer, bytes) : real.read(fd, buffer, bytes);
//   }
//
// The wrappers of calls that are made often only jump on, and what they jump to has everything in one frame: where the
// kernel guards its own returns ("Safe RET", Documentation/admin-guide/hw-vuln/srso.rst), a program's returns after a
// system call are mispredicted, of which each frame between the program and libc costs one (7 ns on AMD EPYC, and 1
// without a system call).
#pragma once

#include "heterosock/lib/process.h"
#include "heterosock/ofd/fd_table.h"
#include "heterosock/ofd/thread.h"

struct iocb;  // of linux/aio_abi.h

// Visible, and in C's name space: the linker script lists the names once more (lib/heterosock.map).
#define HETEROSOCK_EXPORT extern "C" __attribute__((visibility("default")))

// Not put into the wrapper, which then has no frame: the compiler would save registers there for all calls.
#define HETEROSOCK_OWN_FRAME __attribute__((noinline))

namespace heterok8s::heterosock {

// A wrapper's first glance. When it is true, StreamOf() is asked.
inline bool LooksTracked(int fd) { return FdTable::Get(fd).kind() == FdWord::kStream; }

// True when the descriptor is a tracked TCP socket. In a vfork child nothing is: it must not touch the parent's memory.
inline bool StreamOf(int fd, uint32_t* slot) {
  const FdWord word = FdTable::Get(fd);
  if (word.kind() != FdWord::kStream) [[likely]]
    return false;
  if (thread_state.in_vfork != 0) [[unlikely]]
    return false;
  if (NoticeFork() && FdTable::Get(fd).kind() != FdWord::kStream) return false;
  *slot = word.index();
  return true;
}

// Where nothing can be mapped (a null pointer with an offset): the kernel would answer EFAULT, and so must we. Other
// bad addresses fault in our copy as they would in the program's own.
inline bool NoAddress(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) < 4096; }

// This process, or a child of it that libc starts, is about to become another program: what that inherits goes to TCP.
void BeforeExec();
// execve or execveat by syscall(2).
long ExecBySystemCall(long number, long a, long b, long c, long d, long e, long f);

// The program is about to give up system calls, or to try: from here on its connections are the kernel's.
void BeforeRestriction();

// io_submit: what it is about to be told to read, write or wait for goes to TCP.
void BeforeSubmit(long count, iocb* const* orders);

// A wrapper of a call that makes descriptors: whatever the number meant before is over. Returns it.
int Fresh(int fd);

// fork, or a clone without CLONE_VM and without a stack, by syscall(2).
long ForkBySystemCall(long number, long a, long b, long c, long d, long e, long f);

// The wrappers of close and dup share these. Close: lets go of a tracked descriptor before the kernel closes it.
void ForgetFd(int fd);
void CopyFd(int from, int to);

}  // namespace heterok8s::heterosock
