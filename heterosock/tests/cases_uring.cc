// io_uring reads and writes a socket in the kernel, so a connection is on TCP from the moment a ring is made.
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {
namespace {

// One submission at a time, waited for. The setup goes through syscall(3), as programs without liburing make it.
class Ring {
 public:
  Ring() {
    io_uring_params parameters{};
    fd_ = static_cast<int>(syscall(SYS_io_uring_setup, 4, &parameters));
    if (fd_ < 0) return;
    submit_size_ = parameters.sq_off.array + parameters.sq_entries * sizeof(uint32_t);
    complete_size_ = parameters.cq_off.cqes + parameters.cq_entries * sizeof(io_uring_cqe);
    entries_size_ = parameters.sq_entries * sizeof(io_uring_sqe);
    submit_ = Map(submit_size_, IORING_OFF_SQ_RING);
    complete_ = Map(complete_size_, IORING_OFF_CQ_RING);
    entries_ = reinterpret_cast<io_uring_sqe*>(Map(entries_size_, IORING_OFF_SQES));
    offsets_ = parameters;
  }
  ~Ring() {
    if (fd_ < 0) return;
    munmap(submit_, submit_size_);
    munmap(complete_, complete_size_);
    munmap(entries_, entries_size_);
    close(fd_);
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  bool made() const { return fd_ >= 0; }

  // The result of one operation on a socket: bytes, or -errno.
  long Do(uint8_t operation, int socket, const void* bytes, size_t size, uint32_t flags = 0) {
    entries_[0] = {};
    entries_[0].opcode = operation;
    entries_[0].fd = socket;
    entries_[0].addr = reinterpret_cast<uint64_t>(bytes);
    entries_[0].len = static_cast<uint32_t>(size);
    entries_[0].msg_flags = flags;
    auto& tail = Word(submit_, offsets_.sq_off.tail);
    const uint32_t mask = Word(submit_, offsets_.sq_off.ring_mask).load();
    Word(submit_, offsets_.sq_off.array + (tail.load() & mask) * sizeof(uint32_t)).store(0);
    tail.fetch_add(1);
    auto& head = Word(complete_, offsets_.cq_off.head);
    while (head.load() == Word(complete_, offsets_.cq_off.tail).load()) {
      if (syscall(SYS_io_uring_enter, fd_, 1, 1, IORING_ENTER_GETEVENTS, nullptr, 0) < 0 && errno != EINTR)
        return -errno;
    }
    const uint32_t at = head.load() & Word(complete_, offsets_.cq_off.ring_mask).load();
    const long result = reinterpret_cast<io_uring_cqe*>(complete_ + offsets_.cq_off.cqes)[at].res;
    head.fetch_add(1);
    return result;
  }

 private:
  uint8_t* Map(size_t size, off_t at) const {
    return static_cast<uint8_t*>(mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_, at));
  }
  static std::atomic<uint32_t>& Word(uint8_t* ring, uint32_t at) {
    return *reinterpret_cast<std::atomic<uint32_t>*>(ring + at);
  }

  int fd_ = -1;
  io_uring_params offsets_{};
  size_t submit_size_ = 0, complete_size_ = 0, entries_size_ = 0;
  uint8_t *submit_ = nullptr, *complete_ = nullptr;
  io_uring_sqe* entries_ = nullptr;
};

// `size` bytes, however many come at once.
std::string Read(End& e, Ring& ring, size_t size) {
  std::string bytes(size, '\0');
  size_t have = 0;
  while (have < size) {
    const long n = ring.Do(IORING_OP_RECV, e.sock, bytes.data() + have, std::min<size_t>(size - have, 30'000));
    if (n <= 0) {
      e.Say("recv by the ring: %ld after %zu bytes", n, have);
      break;
    }
    have += static_cast<size_t>(n);
  }
  bytes.resize(have);
  return bytes;
}

CASE{"io_uring: a ring takes over a connection with bytes unread, both ways",
     {.client =
          [](End& e) {
            e.Meet();
            e.AwaitBytes(e.sock, 5000);
            Ring ring;
            e.Say("a ring: %d", ring.made());
            if (!ring.made()) return;
            e.Say("same: %d", Read(e, ring, 5000) == Pattern(5000));
            e.Say("sent %ld", ring.Do(IORING_OP_SEND, e.sock, "answer", 6));
            e.Say("same: %d", Read(e, ring, 100'000) == Pattern(100'000, 2));
            e.Say("sent %ld", ring.Do(IORING_OP_SEND, e.sock, "thanks", 6));
            char byte;
            e.Say("end %ld", ring.Do(IORING_OP_RECV, e.sock, &byte, 1));
            e.Say("sent %ld", ring.Do(IORING_OP_SEND, e.sock, "x", 1));
          },
      .server =
          [](End& e) {
            e.SendAll(e.sock, Pattern(5000));
            e.Meet();
            e.Say("%s", e.RecvAll(e.sock, 6).c_str());
            e.SendAll(e.sock, Pattern(100'000, 2));
            e.Say("%s", e.RecvAll(e.sock, 6).c_str());
            DO(shutdown(e.sock, SHUT_WR));
            e.Drain(e.sock, 10);
          },
      .stays = true}};

// What was sent through shared memory comes first.
CASE{"io_uring: a ring sends behind what the program sent before",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, Pattern(20'000));
            Ring ring;
            e.Say("a ring: %d", ring.made());
            if (!ring.made()) return;
            e.Say("sent %ld", ring.Do(IORING_OP_SEND, e.sock, "behind", 6, MSG_WAITALL));
            e.Say("same: %d", Read(e, ring, 3000) == Pattern(3000, 3));
          },
      .server =
          [](End& e) {
            e.Say("same: %d", e.RecvAll(e.sock, 20'000) == Pattern(20'000));
            e.Say("%s", e.RecvAll(e.sock, 6).c_str());
            e.SendAll(e.sock, Pattern(3000, 3));
            e.Drain(e.sock, 10);
          },
      .stays = true}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
