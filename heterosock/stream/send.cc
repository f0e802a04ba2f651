// Sending: the switch to the ring, filling it, waiting for room, and the way back to TCP.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>

#include "heterosock/epoll/registry.h"
#include "heterosock/lib/process.h"
#include "heterosock/lib/quiet.h"
#include "heterosock/lib/real.h"
#include "heterosock/lib/trace.h"
#include "heterosock/notify/bell.h"
#include "heterosock/notify/spin.h"
#include "heterosock/ring/ring.h"
#include "heterosock/stream/cork.h"
#include "heterosock/stream/direction.h"
#include "heterosock/stream/iov.h"
#include "heterosock/stream/keep_alive.h"
#include "heterosock/stream/return.h"
#include "heterosock/stream/stream.h"

namespace heterok8s::heterosock {
namespace {

constexpr size_t kPiece = 32 << 10;        // published at once, so that the receiver copies while we do
constexpr uint64_t kAskKernelUs = 1000;    // how stale "the peer lives" may be for one that only sends
constexpr uint32_t kKeptBytes = 16 << 10;  // of a ring, for as long as the connection lives
// How long the ring may be full while nobody reads. A receiver loses its CPU for less, but for a debugger or a freezer.
constexpr uint64_t kUnreadNs = 250'000'000;
constexpr uint64_t kKeptUs = 1'000'000;  // how long the memory of a burst is kept for the next one

void Count(layout::Shared<uint64_t>& counter) {
  counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

// The functions below run with the send lock held.

bool PeerIsArmed(const LocalChannel& channel) {
  const layout::ControlLine& control = channel.peer().control;
  return control.armed_epoch.load(std::memory_order_acquire) == channel.epoch &&
         control.armed_nonce.load(std::memory_order_relaxed) == channel.nonce;
}

// True when the direction is in the ring now. A call of another thread inside the kernel makes it wait for the next
// send: its bytes are not counted yet.
bool TrySwitch(uint32_t index, int fd) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  if (slot.phase.load(std::memory_order_acquire) != Phase::kArmed || channel.page == nullptr || !PeerIsArmed(channel))
    return false;
  if (channel.peer().wait.flags.load(std::memory_order_relaxed) & layout::kFlagWantTcp) {
    slot.tx.mode.store(Mode::kPlain, std::memory_order_release);
    return false;
  }
  if (slot.tx.calls.inside() != 0) return false;
  const SignalsBlocked quiet;
  slot.tx.mode.store(Mode::kRing, std::memory_order_seq_cst);
  if (!slot.tx.calls.Settle() || slot.tx.calls.inside() != 0) {
    slot.tx.mode.store(Mode::kTcp, std::memory_order_seq_cst);
    return false;
  }
  const uint64_t sent = slot.tx.calls.bytes();
  layout::SideLines& own = channel.own();
  own.sender.ring_size.store(channel.ring_bytes, std::memory_order_relaxed);
  own.counters.tcp_sent.store(sent, std::memory_order_relaxed);
  own.control.switch_at.store(sent + 1, std::memory_order_release);
  slot.tx.checked = Cycles();
  CorkAtSwitch(index, fd);
  KeepAlive(index, fd);
  Trace("fd %d: sends to shared memory after %llu bytes of TCP", fd, static_cast<unsigned long long>(sent));
  return true;
}

// Who sleeps is woken.
void Push(uint32_t index) {
  SendState& tx = Slots::Get(index).tx;
  LocalChannel& channel = Slots::Local(index);
  layout::SideLines& own = channel.own();
  if (tx.unrung.load(std::memory_order_relaxed) != 0) tx.unrung.store(0, std::memory_order_relaxed);
  if (bell::Notify(channel.peer().wait.rx_sleep, tx.rang, own.wait, channel.peer_bell)) Count(own.counters.rings);
}

// 1, as good as none, when the kernel does not say.
uint32_t SegmentBytes(int fd) {
  int bytes = 0;
  socklen_t length = sizeof bytes;
  const long result = Syscall(SYS_getsockopt, fd, IPPROTO_TCP, TCP_MAXSEG, reinterpret_cast<long>(&bytes),
                              reinterpret_cast<long>(&length));
  return result == 0 && bytes > 0 ? static_cast<uint32_t>(bytes) : 1;
}

// What the other side and the kernel have to say before bytes go into the ring.
void LookAtPeer(uint32_t index, int fd) {
  SendState& tx = Slots::Get(index).tx;
  LocalChannel& channel = Slots::Local(index);
  const uint32_t flags = channel.peer().wait.flags.load(std::memory_order_relaxed);
  if (flags & layout::kFlagWantTcp) {
    StartReturn(index, fd, Reason::kPeerAsked);
    return;
  }
  if (flags & layout::kFlagClosed) {
    // It reads no more: what it left and what comes now is answered by the kernel with RST.
    StartReturn(index, fd, Reason::kPeerClosed);
    return;
  }
  const uint64_t now = Cycles();
  if (!(flags & layout::kFlagFin) && now - tx.checked < kAskKernelUs * process.cycles_per_us) return;
  tx.checked = now;
  // After the peer's FIN the kernel must see our bytes: it alone knows whether they are answered by RST.
  const short said = PollNow(fd, POLLRDHUP);
  if ((said & (POLLHUP | POLLERR)) != 0 || ((said & POLLRDHUP) != 0 && TcpEnded(fd)))
    StartReturn(index, fd, Reason::kPeerClosed);
}

class Sender {
 public:
  Sender(uint32_t index, int fd, const iovec* iov, size_t count, int flags)
      : slot_(Slots::Get(index)),
        tx_(slot_.tx),
        channel_(Slots::Local(index)),
        index_(index),
        fd_(fd),
        flags_(flags),
        cursor_(iov, count),
        deadline_(fd, SO_SNDTIMEO) {}

  ssize_t Run() {
    if (!LockSend(index_)) return -EAGAIN;
    generation_ = slot_.generation;
    const ssize_t result = Loop();
    tx_.lock.Release();
    if (convert_) EpollConvert(index_);
    return result;
  }

 private:
  ssize_t Loop() {
    for (;;) {
      if (slot_.broken.load(std::memory_order_relaxed)) return done_ > 0 ? done_ : -ECONNRESET;
      switch (tx_.mode.load(std::memory_order_relaxed)) {
        case Mode::kPlain:
          return ToKernel();
        case Mode::kTcp:
          if (!TrySwitch(index_, fd_)) return kUseKernel;
          convert_ = true;
          continue;
        case Mode::kReturning:
          if (!FlushReturn(index_, fd_)) {
            const ssize_t waited = WaitForTcp();
            if (waited < 0) return done_ > 0 ? done_ : waited;
          }
          continue;
        case Mode::kRing:
          break;
      }
      if (channel_.page == nullptr)
        return done_ > 0 ? done_ : -EAGAIN;  // a process that shares the socket moved it: see Arm()
      LookAtPeer(index_, fd_);
      if (tx_.agent_until != 0 && !Nonblocking()) [[unlikely]]
        AwaitAgent(index_, fd_);
      if (tx_.mode.load(std::memory_order_relaxed) != Mode::kRing) {
        convert_ = true;
        continue;
      }
      if (slot_.broken.load(std::memory_order_relaxed)) continue;
      if (cursor_.done()) return done_;
      const size_t n = Fill();
      if (n == 0) {
        if (slot_.broken.load(std::memory_order_relaxed)) continue;
        const ssize_t waited = WaitForRoom();
        if (waited < 0) return done_ > 0 ? done_ : waited;
        continue;
      }
      done_ += static_cast<ssize_t>(n);
      // Called back while this was published, so perhaps without these bytes. Looked at behind the fence of Notify().
      if (channel_.peer().wait.flags.load(std::memory_order_relaxed) & layout::kFlagWantTcp) {
        StartReturn(index_, fd_, Reason::kPeerAsked);
        if (tx_.agent_until != 0 && !Nonblocking()) AwaitAgent(index_, fd_);
        convert_ = true;
      }
      if (cursor_.done()) return done_;
    }
  }

  // The rest of a call that began in the ring and ends on TCP. It waits here and not in the kernel, which would tell it
  // an error that is for the next call: this one has sent something.
  ssize_t ToKernel() {
    if (done_ == 0) return kUseKernel;
    while (!cursor_.done() && slot_.generation == generation_ && (PollNow(fd_, 0) & (POLLERR | POLLHUP)) == 0) {
      iovec part[kMostIovecs];
      msghdr message = {};
      message.msg_iov = part;
      message.msg_iovlen = cursor_.Rest(part, kMostIovecs, ~size_t{0});
      // A call that has sent something tells how much, and raises no SIGPIPE.
      const long n = Syscall(SYS_sendmsg, fd_, reinterpret_cast<long>(&message), flags_ | MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n == -EAGAIN && WaitForTcp() == 0) continue;
      if (n <= 0) break;
      done_ += n;
      cursor_.Advance(static_cast<size_t>(n));
    }
    return done_;
  }

  // Copies a piece and publishes it. 0: no room.
  size_t Fill() {
    const uint64_t size = channel_.ring_bytes;
    layout::SideLines& own = channel_.own();
    size_t wanted = cursor_.size() < kPiece ? cursor_.size() : kPiece;
    uint64_t used = tx_.tail - tx_.head_seen;
    uint64_t at = (tx_.tail - tx_.base) & (size - 1);
    if (size - used < wanted || at + wanted > layout::kMinRingBytes) {
      used = RefreshHead(index_, fd_);
      if (used == ring::kImpossible) return 0;
      if (used == 0 && at != 0) {
        // Empty: begin again at the first byte. Small exchanges then stay in one page, which is also warm.
        tx_.base = tx_.tail;
        own.sender.ring_base.store(tx_.base, std::memory_order_relaxed);
        at = 0;
        GiveBackMemory();
      }
    }
    const uint64_t room = size - used;
    if (room == 0) return 0;
    if (wanted > room) wanted = static_cast<size_t>(room);
    Reach(at + wanted < size ? at + wanted : size);
    size_t copied = 0;
    while (copied < wanted && !cursor_.done()) {
      const size_t n = cursor_.size() < wanted - copied ? cursor_.size() : wanted - copied;
      ring::CopyIn(channel_.out, size, at, cursor_.data(), n);
      at = (at + n) & (size - 1);
      cursor_.Advance(n);
      copied += n;
    }
    // Remembered before it is published: if we die in between, whoever takes over does not write over what is out.
    tx_.tail += copied;
    own.sender.tail.store(tx_.tail, std::memory_order_release);
    Count(own.counters.sends);
    if (MoreToCome()) [[unlikely]] {
      if (LeaveAsleep()) return copied;
    }
    Push(index_);
    return copied;
  }

  bool MoreToCome() const { return (flags_ & MSG_MORE) != 0 || Corked(tx_); }

  // TCP would keep a part of a segment until the rest comes; here the receiver is spared a wake-up.
  bool LeaveAsleep() {
    layout::SideLines& own = channel_.own();
    own.wait.corks.store(1, std::memory_order_relaxed);
    if (tx_.segment == 0) tx_.segment = SegmentBytes(fd_);
    uint64_t unread = tx_.tail - tx_.head_seen;
    if (unread >= tx_.segment) unread = RefreshHead(index_, fd_);
    // Half of the ring at most, so that nobody waits for room while the one who would make it was left asleep.
    if (unread >= tx_.segment || unread > channel_.ring_bytes / 2) return false;
    if (!bell::LeaveAsleep(channel_.peer().wait, tx_.rang)) return false;
    tx_.unrung.store(1, std::memory_order_relaxed);
    return true;
  }

  // How far into the ring bytes go, since it was last begun at its first byte.
  void Reach(uint64_t end) {
    if (end <= tx_.reach) return;
    if (end > kKeptBytes && tx_.reach <= kKeptBytes) tx_.reached_at = Cycles();
    tx_.reach = static_cast<uint32_t>(end);
  }

  // The ring is empty and begins again at its first byte: what a burst left behind takes memory for nothing. Only the
  // sender knows that nobody reads there, and only now; a stream is spared by the clock.
  void GiveBackMemory() {
    if (tx_.reach > tx_.touched) tx_.touched = tx_.reach;
    tx_.reach = 0;
    if (tx_.touched <= kKeptBytes || Cycles() - tx_.reached_at < kKeptUs * process.cycles_per_us) [[likely]]
      return;
    const auto page = static_cast<uint32_t>(getpagesize());
    const uint32_t kept = page > kKeptBytes ? page : kKeptBytes;
    // Refused (memory that is locked), it stays as it was.
    if (tx_.touched > kept)
      Syscall(SYS_madvise, reinterpret_cast<long>(channel_.out + kept), tx_.touched - kept, MADV_REMOVE);
    tx_.touched = 0;
  }

  bool Nonblocking() const {
    return (flags_ & MSG_DONTWAIT) != 0 || slot_.nonblocking.load(std::memory_order_relaxed) != 0;
  }

  bool Roomy() {
    const uint64_t head = channel_.peer().receiver.head.load(std::memory_order_acquire);
    const uint64_t used = tx_.tail - head;
    return used > channel_.ring_bytes || ring::Roomy(used, channel_.ring_bytes);  // a lie is found by who looks next
  }

  // When what is unread goes to TCP, whose buffers take several times a ring: two ends that both write before they read
  // would else wait for each other where plain TCP lets them go on. A receiver that is that slow gains nothing from a
  // ring.
  uint64_t UnreadUntil() {
    const uint64_t head = channel_.peer().receiver.head.load(std::memory_order_acquire);
    if (channel_.full_at_head != head + 1) {
      channel_.full_at_head = head + 1;
      channel_.full_since_ns = Nanoseconds();
    }
    return channel_.full_since_ns + kUnreadNs;
  }

  // 0: look again; else -errno. Enters and leaves with the lock held.
  ssize_t WaitForRoom() {
    layout::SideLines& own = channel_.own();
    Count(own.counters.tx_full);
    const uint64_t until = UnreadUntil();
    if (Nanoseconds() >= until) {
      StartReturn(index_, fd_, Reason::kUnread);
      convert_ = true;
      if (tx_.mode.load(std::memory_order_relaxed) != Mode::kRing) return 0;
    }
    if (Nonblocking()) {
      tx_.full.fetch_add(1, std::memory_order_relaxed);
      convert_ = true;  // a set has to hear of room from us
      return -EAGAIN;
    }
    NoteCpu(own.wait);
    {
      // Nothing is under way: a handler of this thread may send, or close.
      Spinner spinner(channel_.peer().wait.cpu.load(std::memory_order_relaxed));
      tx_.lock.Rests(true);
      bool roomy = false;
      while (!roomy && spinner.Again()) roomy = channel_.page == nullptr || Roomy();
      tx_.lock.Rests(false);
      if (slot_.generation != generation_ || channel_.page == nullptr) return -EBADF;
      if (roomy) {
        spinner.Succeeded();
        return 0;
      }
    }
    if (!MayBlock(slot_, fd_)) return -EAGAIN;
    if (deadline_.Expired()) return -EAGAIN;
    poke_ = EnterBell(index_);
    bell::Arm(own.wait.tx_sleep, tx_.sleep);
    hurry_ = Roomy() || (channel_.peer().wait.flags.load(std::memory_order_relaxed) & layout::kFlagWantTcp) != 0;
    // After a SHUT_RD of its own the kernel would say so again and again; the other end's is looked for at `until`.
    const short news = slot_.rx.shut.load(std::memory_order_relaxed) != 0 ? 0 : POLLRDHUP;
    pollfd sources[2] = {{fd_, news, 0}, {channel_.bell_dead ? -1 : channel_.own_bell, POLLIN, 0}};
    const ssize_t result = Sleep(sources, 2, until);
    LeaveBell(index_);
    if (result == -EBADF) return result;
    if (sources[1].revents & POLLIN) LearnWakeCost(channel_.peer().wait.rang_at.load(std::memory_order_relaxed));
    if ((sources[1].revents & (POLLIN | POLLHUP)) == POLLHUP) channel_.bell_dead = true;
    if (sources[0].revents != 0) {
      tx_.checked = 0;  // LookAtPeer asks the kernel now
    }
    return result;
  }

  ssize_t WaitForTcp() {
    if (Nonblocking() || !MayBlock(slot_, fd_) || deadline_.Expired()) return -EAGAIN;
    pollfd source = {fd_, POLLOUT, 0};
    return Sleep(&source, 1);
  }

  // until_ns: on CLOCK_MONOTONIC, when to look again whatever happens; 0: never.
  ssize_t Sleep(pollfd* sources, nfds_t count, uint64_t until_ns = 0) {
    timespec left = {};
    const timespec* timeout = hurry_ ? &left : deadline_.Left(&left);
    if (!hurry_ && until_ns != 0) {
      const uint64_t now = Nanoseconds(), rest = now < until_ns ? until_ns - now : 0;
      const timespec most = {static_cast<time_t>(rest / 1'000'000'000), static_cast<long>(rest % 1'000'000'000)};
      if (timeout == nullptr || left.tv_sec > most.tv_sec ||
          (left.tv_sec == most.tv_sec && left.tv_nsec > most.tv_nsec))
        left = most;
      timeout = &left;
    }
    tx_.lock.Release();
    if (poke_) EpollPoke(index_);
    hurry_ = poke_ = false;
    const int n = PollTwo(sources, count, timeout);
    const int error = errno;
    LockSend(index_);
    if (slot_.generation != generation_ || channel_.page == nullptr) return -EBADF;
    if (n < 0 && error == EINTR && (done_ > 0 || deadline_.Set() || !CallRestarts())) return -EINTR;
    return 0;
  }

  Slot& slot_;
  SendState& tx_;
  LocalChannel& channel_;
  const uint32_t index_;
  const int fd_;
  const int flags_;
  IovCursor cursor_;
  Deadline deadline_;
  ssize_t done_ = 0;
  uint32_t generation_ = 0;
  bool convert_ = false;
  bool poke_ = false;   // an epoll set may have been waiting for the ring that we took
  bool hurry_ = false;  // do not sleep, only look
};

}  // namespace

ssize_t RingSend(uint32_t index, int fd, const iovec* iov, size_t count, int flags) {
  return Sender(index, fd, iov, count, flags).Run();
}

void PushSent(uint32_t index) {
  Slot& slot = Slots::Get(index);
  if (slot.tx.unrung.load(std::memory_order_relaxed) == 0 || !LockSend(index)) return;
  if (Slots::Local(index).page != nullptr && slot.tx.mode.load(std::memory_order_relaxed) == Mode::kRing) Push(index);
  slot.tx.lock.Release();
}

bool RoomToSend(uint32_t index) {
  LocalChannel& channel = Slots::Local(index);
  const uint64_t used = Slots::Get(index).tx.tail - channel.peer().receiver.head.load(std::memory_order_acquire);
  return used <= channel.ring_bytes && ring::Roomy(used, channel.ring_bytes);
}

bool RingWasRead(uint32_t index) {
  Slot& slot = Slots::Get(index);
  if (slot.tx.mode.load(std::memory_order_relaxed) != Mode::kRing || !LockSend(index)) return false;
  LocalChannel& channel = Slots::Local(index);
  const bool read = channel.page != nullptr && channel.peer().receiver.head.load(std::memory_order_acquire) != 0;
  slot.tx.lock.Release();
  return read;
}

}  // namespace heterok8s::heterosock
