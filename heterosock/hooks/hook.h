// What every wrapper begins with.
//
//   HETEROSOCK_EXPORT ssize_t read(int fd, void* buffer, size_t bytes) {
//     uint32_t slot;
//     if (!StreamOf(fd, &slot)) [[likely]] return real.read(fd, buffer, bytes);
//     ...
#pragma once

#include "heterosock/lib/process.h"
#include "heterosock/ofd/fd_table.h"
#include "heterosock/ofd/thread.h"

// Visible, and in C's name space: the linker script lists the names once more (lib/heterosock.map).
#define HETEROSOCK_EXPORT extern "C" __attribute__((visibility("default")))

namespace heterok8s::heterosock {

// True when the descriptor is a tracked TCP socket. In a vfork child nothing is: it must not touch the parent's memory.
inline bool StreamOf(int fd, uint32_t* slot) {
  const FdWord word = FdTable::Get(fd);
  if (word.kind() != FdWord::kStream) [[likely]]
    return false;
  if (thread_state.in_vfork != 0) [[unlikely]]
    return false;
  NoticeFork();
  *slot = word.index();
  return true;
}

// Where nothing can be mapped (a null pointer with an offset): the kernel would answer EFAULT, and so must we. Other
// bad addresses fault in our copy as they would in the program's own.
inline bool NoAddress(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) < 4096; }

// A wrapper of a call that makes descriptors: whatever the number meant before is over. Returns it.
int Fresh(int fd);

// The wrappers of close and dup share these. Close: lets go of a tracked descriptor before the kernel closes it.
void ForgetFd(int fd);
void CopyFd(int from, int to);

}  // namespace heterok8s::heterosock
