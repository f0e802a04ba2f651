// One call of the receive family on a connection that is armed: where its next bytes are, and how to wait for them.
// Private to stream/. receive.cc has the call as a whole and what comes over TCP, receive_ring.cc the ring and waiting.
//
// Threading: lives for one call, on its thread. Ownership: borrows the slot, its channel and the caller's buffers.
// Errors: as RingReceive().
//
//   return Receiver(index, fd, iov, count, flags).Run();
#pragma once

#include "heterosock/ofd/slot.h"
#include "heterosock/stream/iov.h"
#include "heterosock/stream/stream.h"

namespace heterok8s::heterosock {

class Receiver {
 public:
  Receiver(uint32_t index, int fd, const iovec* iov, size_t count, int flags)
      : slot_(Slots::Get(index)),
        rx_(slot_.rx),
        channel_(Slots::Local(index)),
        index_(index),
        fd_(fd),
        flags_(flags),
        start_(iov, count),
        cursor_(start_),
        deadline_(fd, SO_RCVTIMEO) {}

  // A receiver that has no buffers, but room for `room.iov_len` bytes in a pipe of `pipe_bytes`.
  Receiver(uint32_t index, int fd, const iovec& room, int pipe, size_t pipe_bytes) : Receiver(index, fd, &room, 1, 0) {
    pipe_ = pipe;
    pipe_bytes_ = pipe_bytes;
  }

  ssize_t Run();

 private:
  // What one look brought: bytes (perhaps the last ones wanted), nothing yet, or an end.
  enum Look { kMore, kEmpty, kEnd };

  ssize_t Loop();
  bool NothingQueued(Mode mode) const;
  ssize_t FromKernel();
  short AwaitKernel();
  Look End(ssize_t result);
  void Took(size_t n);
  Look LookAtTcp();
  Look TakeAtMark();
  long KernelReceive(const IovCursor& cursor, size_t most) const;
  long ReceiveCounted(size_t most);
  Look PeekBehindSwitch(uint64_t before);
  bool PeeksOn();
  Look LookAtRing();
  Look TakeFromRing(uint64_t head, uint64_t tail);
  Look TakeIntoPipe(uint64_t head, uint64_t tail);
  long WriteToPipe(uint64_t at, size_t bytes, size_t size) const;
  void Publish(uint64_t head, uint64_t tail, uint64_t size);
  Look LookBehindRing(uint64_t end);
  Look Keep(long error);
  Look Nothing(long got);
  Look Reset(long error);
  Look Corrupt(const char* what);
  bool Changed() const;
  ssize_t Wait();
  static void Count(layout::Shared<uint64_t>& counter) {
    counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }

  Slot& slot_;
  ReceiveState& rx_;
  LocalChannel& channel_;
  const uint32_t index_;
  const int fd_;
  const int flags_;
  int pipe_ = -1;
  size_t pipe_bytes_ = 0;
  const IovCursor start_;
  IovCursor cursor_;
  Deadline deadline_;
  ssize_t done_ = 0;
  ssize_t result_ = 0;
  uint64_t seen_switch_ = 0;
  uint64_t peek_from_ = 0;
  ssize_t peeked_ = 0;  // what a peek saw that waits for all of it
  uint32_t generation_ = 0;
  bool impatient_ = false;  // nothing came while it was patient: the next sleep lasts until something does
  bool boundary_ = false;   // what was taken ended where another queue begins
  bool convert_ = false;
  bool at_end_ = false;
  bool peeks_on_ = false;  // what is there was seen, and is looked at anew until all of it is there
  bool dropping_ = false;  // what TCP has is in part what the ring had
};

}  // namespace heterok8s::heterosock
