// A place in an array of iovecs, moved along as bytes are copied. Reads each iovec once.
#pragma once

#include <sys/uio.h>

#include <stddef.h>
#include <stdint.h>

namespace heterok8s::heterosock {

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
  size_t Total() const {
    size_t total = 0;
    for (size_t i = 0; i < left_; ++i) total += iov_[i].iov_len;
    return total - at_;
  }
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

// So many are handed to the kernel at a time.
inline constexpr size_t kMostIovecs = 64;

}  // namespace heterok8s::heterosock
