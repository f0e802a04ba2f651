// How much of a program's buffers one call takes. What is longer the kernel does not refuse: it cuts it
// (rw_verify_area() in fs/read_write.c; import_ubuf() and import_iovec() in lib/iov_iter.c).
//
// Threading: any. Ownership: borrows the program's array. Errors: none; what the kernel refuses is kOdd.
//
//   const Vector kind = Judge(iov, count);
//   if (kind == Vector::kLong) return Cut(iov, count, [&](const iovec* part, size_t parts) { ... });
#pragma once

#include <limits.h>
#include <sys/uio.h>

#include "heterosock/hooks/hook.h"

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

// Makes the call with so much of a vector that is kLong. What is behind the first parts waits for the program's next
// call, which has to come: no call takes all of it.
template <typename Call>
HETEROSOCK_OWN_FRAME ssize_t Cut(const iovec* iov, size_t count, Call call) {
  constexpr size_t kParts = 64;
  iovec part[kParts];
  size_t n = 0, left = kMostBytes;
  for (size_t i = 0; i < count && n < kParts && left > 0; ++i) {
    const size_t length = iov[i].iov_len < left ? iov[i].iov_len : left;
    if (length > 0) part[n++] = {iov[i].iov_base, length};
    left -= length;
  }
  return call(part, n);
}

}  // namespace heterok8s::heterosock
