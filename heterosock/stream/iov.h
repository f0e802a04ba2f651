// A place in an array of iovecs, moved along as bytes are copied. Reads each iovec once.
#pragma once

#include <sys/uio.h>

#include <stddef.h>
#include <stdint.h>

namespace heterok8s::heterosock {

inline size_t Bytes(const iovec* iov, size_t count) {
  size_t bytes = 0;
  for (size_t i = 0; i < count; ++i) bytes += iov[i].iov_len;
  return bytes;
}

class IovCursor {
 public:
  IovCursor(const iovec* iov, size_t count) : iov_(iov), left_(count) { Settle(); }

  bool done() const { return left_ == 0; }
  uint8_t* data() const { return static_cast<uint8_t*>(iov_->iov_base) + at_; }
  size_t size() const { return iov_->iov_len - at_; }
  // At most Total() bytes; they may end in a later iovec.
  void Advance(size_t n) {
    at_ += n;
    Settle();
  }
  size_t Total() const { return Bytes(iov_, left_) - at_; }
  // The rest as iovecs, at most `most` bytes of it, for a system call. `out` holds `room` of them.
  size_t Rest(iovec* out, size_t room, size_t most) const {
    size_t n = 0;
    for (size_t i = 0; i < left_ && n < room && most > 0; ++i) {
      const size_t skip = i == 0 ? at_ : 0;
      size_t length = iov_[i].iov_len - skip;
      if (length == 0) continue;
      if (length > most) length = most;
      out[n++] = {static_cast<uint8_t*>(iov_[i].iov_base) + skip, length};
      most -= length;
    }
    return n;
  }

 private:
  void Settle() {
    while (left_ > 0 && at_ >= iov_->iov_len) {
      at_ -= iov_->iov_len;
      ++iov_;
      --left_;
    }
  }
  const iovec* iov_;
  size_t left_;
  size_t at_ = 0;
};

// Calls `call` (iovec*, count), which answers as a system call does, with as many of the pieces that are left as there
// is room for here, until they are done or one takes less than it was given. Returns the bytes; the cursor is behind
// them.
inline constexpr size_t kMostIovecs = 64;
template <typename Call>
size_t InParts(IovCursor& cursor, Call&& call) {
  size_t all = 0;
  while (!cursor.done()) {
    iovec part[kMostIovecs];
    const size_t count = cursor.Rest(part, kMostIovecs, ~size_t{0});
    const long n = call(part, count);
    if (n <= 0) break;
    all += static_cast<size_t>(n);
    cursor.Advance(static_cast<size_t>(n));
    if (static_cast<size_t>(n) < Bytes(part, count)) break;
  }
  return all;
}

}  // namespace heterok8s::heterosock
