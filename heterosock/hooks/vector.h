// How much of a program's buffers one call takes. What is longer the kernel does not refuse: it cuts it
// (rw_verify_area() in fs/read_write.c; import_ubuf() and import_iovec() in lib/iov_iter.c).
//
// Threading: any. Ownership: borrows the program's array. Errors: none; what the kernel refuses is kOdd.
//
//   const Vector kind = Judge(iov, count);
//   if (kind == Vector::kLong) return Cut(iov, count, [&](const iovec* part, size_t parts) { ... });
#pragma once

#include <errno.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/uio.h>

#include "heterosock/hooks/hook.h"
#include "heterosock/lib/machine.h"

namespace heterok8s::heterosock {

inline constexpr size_t kMostBytes = 0x7ffff000;  // MAX_RW_COUNT in include/linux/fs.h

inline size_t Cut(size_t bytes) { return bytes < kMostBytes ? bytes : kMostBytes; }

enum class Vector : uint8_t {
  kUsual,
  kLong,  // more than one call takes
  kEmpty,
  kOdd,  // the kernel would refuse it
};

inline Vector Judge(const iovec* iov, size_t count) {
  if (count == 0) return Vector::kEmpty;
  if (NoAddress(iov) || count > IOV_MAX) return Vector::kOdd;
  size_t total = 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t length = iov[i].iov_len;
    if (length > kMostBytes) [[unlikely]] {
      if (static_cast<ssize_t>(length) < 0) return Vector::kOdd;
      total += kMostBytes + 1;
      continue;
    }
    total += length;
  }
  if (total > kMostBytes) return Vector::kLong;
  return total > 0 ? Vector::kUsual : Vector::kEmpty;
}

// Makes the call with so much of a vector that is kLong. Of one of many parts (IOV_MAX) a copy may be longer than a
// signal handler's stack: it is mapped. Without memory the call takes the first parts.
template <typename Call>
HETEROSOCK_OWN_FRAME ssize_t Cut(const iovec* iov, size_t count, Call call) {
  constexpr size_t kParts = 64;
  iovec few[kParts] = {};
  iovec* part = few;
  const auto bytes = static_cast<long>(count * sizeof(iovec));
  const long memory =
      count > kParts ? Syscall(SYS_mmap, 0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : -1;
  const bool mapped = memory > 0;
  if (mapped) part = reinterpret_cast<iovec*>(memory);
  const size_t room = mapped ? count : kParts;
  size_t n = 0, left = kMostBytes;
  for (size_t i = 0; i < count && n < room && left > 0; ++i) {
    const size_t length = iov[i].iov_len < left ? iov[i].iov_len : left;
    if (length > 0) part[n++] = {iov[i].iov_base, length};
    left -= length;
  }
  const ssize_t result = call(part, n);
  if (mapped) {
    const int saved = errno;
    Syscall(SYS_munmap, memory, bytes);
    errno = saved;
  }
  return result;
}

}  // namespace heterok8s::heterosock
