// A write to a pipe that never waits, whatever the pipe's O_NONBLOCK says: that flag belongs to everybody who has the
// pipe, and whoever has looked for room before may find it taken by another writer.
//
// Pipes of pipe(2) take RWF_NOWAIT since Linux 6.4 (create_pipe_files() in fs/pipe.c sets FMODE_NOWAIT); a FIFO that
// was opened takes it in no version (fifo_open() sets nothing), nor do older kernels. These are given copies of the
// bytes by vmsplice(2), which takes SPLICE_F_NONBLOCK everywhere: pages of nobody else, for the pipe keeps them.
//
// Threading: any. Ownership: none; the bytes are copied. Errors: -errno, as write(2) has them; -EAGAIN: no room.
//
//   const long written = WriteNow(pipe, bytes, size);   // as many as fit
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "heterosock/lib/machine.h"

namespace heterok8s::heterosock {

// The pipe takes it by the page: a small piece fills one of its places.
inline long GivePages(int pipe, const uint8_t* bytes, size_t size) {
  const long length = static_cast<long>(size);
  const long pages = Syscall(SYS_mmap, 0, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  // EAGAIN of mmap(2), more than may be locked, is not the pipe's.
  if (pages < 0 && pages > -4096) return pages == -EAGAIN ? -ENOMEM : pages;
  memcpy(reinterpret_cast<void*>(pages), bytes, size);
  const iovec part = {reinterpret_cast<void*>(pages), size};
  const long written = Syscall(SYS_vmsplice, pipe, reinterpret_cast<long>(&part), 1, SPLICE_F_NONBLOCK);
  Syscall(SYS_munmap, pages, length);
  return written;
}

inline long WriteNow(int pipe, const uint8_t* bytes, size_t size) {
  constexpr long kNoWait = 8;  // RWF_NOWAIT (linux/fs.h); musl's headers do not have it
  const iovec part = {const_cast<uint8_t*>(bytes), size};
  const long written = Syscall(SYS_pwritev2, pipe, reinterpret_cast<long>(&part), 1, -1, -1, kNoWait);
  // EINVAL: before Linux 4.13, which knows no such flag; ENOSYS: before 4.6; EPERM: a filter's.
  if (written != -EOPNOTSUPP && written != -EINVAL && written != -ENOSYS && written != -EPERM) return written;
  return GivePages(pipe, bytes, size);
}

}  // namespace heterok8s::heterosock
