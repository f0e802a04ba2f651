// The shared memory of one connection: what two processes see of each other. Version 2.
//
// A channel is `channel_bytes` of a sealed memfd (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), made by the agent and
// mapped by both ends. From its start:
//
//   offset 0                 ChannelHeader          written once by the agent, before anyone else sees it
//   offset 128 + s * 640     SideLines of side s    s = 0: the end that connected, s = 1: the end that accepted
//   ring_offset[s]           ring_bytes of ring     bytes that side s sends
//
// Everything is little-endian and of fixed width; there are no pointers and no bit fields. A *line* is 128 bytes (two
// 64-byte cache lines, because adjacent lines are fetched together) and is written by one side only; but the agent has
// a say in `flags` and `returning`, which are therefore changed by atomic or, and by exchange. All but the header is
// zero at first. Counting is done with cumulative 64-bit stream offsets that start at 0 when a direction moves to
// shared memory and never wrap.
//
// Sending n bytes as side s, with T the own tail, M = ring_size, B = ring_base (all remembered privately, never read
// back; M is stored before the first byte):
//   wait until T + n - other.receiver.head (with acquire) <= M; copy the bytes to ring[s][(T - B) mod M], in two pieces
//   at the end of M; sender.tail = T + n with release; full fence; if other.wait.rx_sleep is odd and not the value last
//   rung for: ring.
// Receiving: tail = other.sender.tail with acquire; between the own head and tail there are bytes; read B and M after
// tail;
//   copy out; receiver.head = head + n with release; full fence; if other.wait.tx_sleep is odd and new: ring.
// B and M may change only while the ring is empty (head == tail), and are stored before the tail that needs them. This
// is how a ring shrinks to its first page on an idle connection and grows to ring_bytes in a burst.
//
// Sleeping (an eventcount with one writer per word): the sleeper stores a new odd value in its rx_sleep (or tx_sleep),
// greater than the last; full fence; looks again; only then sleeps, in one poll() on its bell and on the socket. Once
// awake it empties the bell, and then looks. It may store an even value (one more) meanwhile; who leaves the odd one is
// rung once for nothing, so an odd value does not say that somebody sleeps. The other side, after publishing (a tail, a
// head, or continue_at, which is for the receiver), rings each odd value at most once. Bells are pipes that travel by
// SCM_RIGHTS, one for each side: it may ring for either word, or for a flag (below), or for nothing.
//
// Patience: a sender of which more is to come (MSG_MORE, TCP_CORK) need not ring for a part of a segment, as TCP would
// not send it. It has stored 1 in its `corks` before; a receiver that sees that may store the value that rx_sleep is
// about to have in rx_patient, and then sleeps for 200 ms at most before it looks again, with a new value. The sender
// may leave the value unrung for as long as rx_patient equals it, and rings when it has no more to come. So bytes are
// never later than TCP's, which keeps them for 200 ms, even when the sender does nothing any more.
//
// Moving a direction from TCP to the ring: each side stores its armed_nonce, then armed_epoch with release, at any time
// when nobody of it is inside a call on the socket: from then on who waits for bytes sleeps as above. When the sender
// sees both of the other side equal to the header's, and no kFlagWantTcp there (else it stays on TCP for good), it
// stores switch_at = 1 + number of bytes it wrote to TCP since the connection began, and from then on writes only to
// its ring. The receiver reads TCP until it has read switch_at - 1 bytes, then the ring. It asks TCP how much there is
// (SIOCINQ, or a peek) before it looks at switch_at, and takes no more: a sender may switch and move back in between,
// and what it writes to TCP after that is not next.
//
// Moving back, which a direction does at most once in its life, by itself or because kFlagWantTcp is set at the other
// side (a sender looks before each piece, and whenever its bell has woken it): the sender sets `returning` from 0 to
// kSenderReturns and looks whether recall_at is there (below). If not, it writes to TCP what is unread in the ring,
// from the offset F on and as far as TCP takes it, to the offset R; it stores returned_to = 1 + R, then continue_at = 1
// + F, and goes on with TCP. F is the receiver's head as the sender saw it, so bytes may be in both places: the
// receiver reads the ring to its tail, drops R - F bytes of TCP, and reads TCP for good. What comes on TCP while
// `returning` is set and continue_at is not is such a copy.
//
// Nothing goes over TCP meanwhile: who sends by the ring keeps the connection alive for NAT and firewalls that forget
// idle ones (TCP keepalive), as its end, and the way back, need it.
//
// A receiver that will not read the ring any longer (the socket goes to a program without the library) stores
// recall_at = 1 + head, sets kFlagWantTcp, full fence, and rings, whoever sleeps. The sender then takes F = recall_at -
// 1, and R is the tail: it goes on until TCP has taken that, so nothing is lost and the order is kept; it stores
// kSenderAnswers in `returning`. The next byte of TCP is then the one at head. Where kSenderReturns is there after that
// store, the sender may not have seen it: the receiver waits for continue_at, and drops head - F bytes of TCP. The
// agent can do the writing for a sender that is busy elsewhere (HAND_BACK): it sets `returning` from 0 to
// kAgentReturns, and stores returned_to when done. The sender, who may go on publishing meanwhile, then writes what is
// behind returned_to itself and stores continue_at = recall_at. It must not wait for that in place: the other side can
// write kAgentReturns too.
//
// Ending: FIN, RST and errors are TCP's. A side sets kFlagFin before shutdown(SHUT_WR), kFlagFin and kFlagClosed before
// close. Bytes may be left in the ring then: a receiver that finds the end on TCP looks at the tail and continue_at
// after that, and has the end when it has read up to them. So does one that called its bytes back, when nobody has
// begun to bring them. A sender that sees kFlagClosed, or the other side's FIN (POLLRDHUP; it asks when it sees
// kFlagFin, and now and then, for who is killed sets no flag), moves its direction back, so that the kernel answers
// what it writes.
//
// Who reads must take the other side for hostile: load every field once, check it, and treat what cannot be as a reset.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace heterok8s::heterosock::layout {

inline constexpr uint64_t kChannelMagic = 0x31306b736f746568;  // "hetosk01"
inline constexpr uint32_t kChannelVersion = 2;
inline constexpr size_t kLineBytes = 128;
inline constexpr size_t kMinRingBytes = 4096;  // one page: what an idle connection keeps
inline constexpr size_t kMaxRingBytes = 64 << 20;
inline constexpr size_t kRingAlignment = 64 << 10;  // kernels with 64 KiB pages can map it too

// Flags of WaitLine::flags.
inline constexpr uint32_t kFlagFin = 1;      // this side called shutdown or close: the kernel's FIN is about to follow
inline constexpr uint32_t kFlagWantTcp = 2;  // please move your direction back to TCP. The agent sets it too, to fence
inline constexpr uint32_t kFlagClosed = 4;   // this side closed its last descriptor: it reads no more

// Values of ControlLine::returning.
inline constexpr uint32_t kSenderReturns = 1;
inline constexpr uint32_t kAgentReturns = 2;
inline constexpr uint32_t kSenderAnswers = 3;  // the sender, which has seen recall_at

template <typename T>
using Shared = std::atomic<T>;

struct alignas(kLineBytes) ChannelHeader {
  uint64_t magic;           // kChannelMagic
  uint32_t version;         // kChannelVersion
  uint32_t ring_bytes;      // of each ring: a power of two, kMinRingBytes to kMaxRingBytes
  uint64_t ring_offset[2];  // multiples of kRingAlignment, from the start of the channel
  uint64_t channel_id;      // the agent's number, for people
  uint64_t epoch;           // of this pairing; never 0
  uint64_t nonce;           // random; never 0
};

struct alignas(kLineBytes) SenderLine {
  Shared<uint64_t> tail;       // bytes ever written to the ring
  Shared<uint64_t> ring_base;  // stream offset that lies at byte 0 of the ring
  Shared<uint32_t> ring_size;  // bytes of the ring in use: a power of two, kMinRingBytes to ring_bytes
  uint32_t reserved;
};

struct alignas(kLineBytes) ReceiverLine {
  Shared<uint64_t> head;  // bytes ever read from the other side's ring
};

struct alignas(kLineBytes) WaitLine {
  Shared<uint32_t> rx_sleep;  // odd: asleep until the other side's tail moves
  Shared<uint32_t> tx_sleep;  // odd: asleep until the other side's head moves
  Shared<uint32_t> flags;
  Shared<uint32_t> cpu;      // 1 + the CPU this side last ran on; 0 unknown. Numbers of different PUs do not compare.
  Shared<uint64_t> rang_at;  // time stamp counter when this side last rang: the sleeper learns what waking costs
  Shared<uint32_t> corks;    // 1: this side has sent what it had more to come behind, and may again
  Shared<uint32_t> rx_patient;  // the value of rx_sleep with which this side looks again by itself; 0: none
};

struct alignas(kLineBytes) ControlLine {
  Shared<uint64_t> armed_epoch;
  Shared<uint64_t> armed_nonce;
  Shared<uint64_t> switch_at;    // 0: still TCP
  Shared<uint64_t> continue_at;  // 0: not gone back
  Shared<uint64_t> recall_at;    // as receiver. 0: reading; else this side will not read past it
  Shared<uint64_t> returned_to;  // 0: no bytes of the ring are on TCP; else 1 + the offset up to which they are
  Shared<uint32_t> returning;    // who brings the direction back. The only word that two may write: by exchange, once
  uint32_t reserved;
};

// For `heterosockctl status`; nothing depends on it.
struct alignas(kLineBytes) CounterLine {
  Shared<uint64_t> sends;
  Shared<uint64_t> receives;
  Shared<uint64_t> sleeps;
  Shared<uint64_t> rings;
  Shared<uint64_t> spins;         // waits that ended while spinning
  Shared<uint64_t> tx_full;       // sends that found no room
  Shared<uint64_t> tcp_sent;      // bytes written to TCP before the switch
  Shared<uint64_t> tcp_received;  // from TCP when this side was armed
  Shared<uint32_t> pid;           // as this side sees itself
  Shared<uint32_t> fenced;        // why this side moved back to TCP (upgrade/reason.h); 0: it did not
};

struct SideLines {
  SenderLine sender;
  ReceiverLine receiver;
  WaitLine wait;
  ControlLine control;
  CounterLine counters;
};

struct ChannelPage {
  ChannelHeader header;
  SideLines side[2];
};

static_assert(sizeof(Shared<uint64_t>) == 8 && Shared<uint64_t>::is_always_lock_free);
static_assert(sizeof(Shared<uint32_t>) == 4 && Shared<uint32_t>::is_always_lock_free);
static_assert(sizeof(ChannelHeader) == 128 && offsetof(ChannelHeader, ring_offset) == 16 &&
              offsetof(ChannelHeader, epoch) == 40);
static_assert(sizeof(SideLines) == 640 && offsetof(SideLines, wait) == 256 && offsetof(SideLines, control) == 384);
static_assert(sizeof(SenderLine) == 128 && offsetof(SenderLine, ring_base) == 8 &&
              offsetof(SenderLine, ring_size) == 16);
static_assert(sizeof(WaitLine) == 128 && offsetof(WaitLine, flags) == 8 && offsetof(WaitLine, rang_at) == 16 &&
              offsetof(WaitLine, rx_patient) == 28);
static_assert(sizeof(CounterLine) == 128 && offsetof(CounterLine, pid) == 64);
static_assert(sizeof(ChannelPage) == 1408 && sizeof(ChannelPage) <= 4096);

// Where the agent puts things: the page, then the two rings on their own 64 KiB boundaries. Untouched pages of a memfd
// cost nothing, so the distance is only address space.
constexpr uint64_t RingOffset(int side, uint32_t ring_bytes) {
  const uint64_t stride = ring_bytes < kRingAlignment ? kRingAlignment : ring_bytes;
  return kRingAlignment + side * stride;
}
constexpr uint64_t ChannelBytes(uint32_t ring_bytes) { return RingOffset(2, ring_bytes); }

// True when a header describes a channel that fits in `bytes`. The caller passes a private copy.
constexpr bool ValidHeader(const ChannelHeader& header, uint64_t bytes) {
  if (header.magic != kChannelMagic || header.version != kChannelVersion || header.epoch == 0 || header.nonce == 0)
    return false;
  const uint32_t ring = header.ring_bytes;
  if (ring < kMinRingBytes || ring > kMaxRingBytes || (ring & (ring - 1)) != 0) return false;
  for (const uint64_t offset : header.ring_offset) {
    if (offset % kRingAlignment != 0 || offset < sizeof(ChannelPage) || offset > bytes || bytes - offset < ring)
      return false;
  }
  const uint64_t low = header.ring_offset[0] < header.ring_offset[1] ? header.ring_offset[0] : header.ring_offset[1];
  const uint64_t high = header.ring_offset[0] < header.ring_offset[1] ? header.ring_offset[1] : header.ring_offset[0];
  return high - low >= ring;
}

}  // namespace heterok8s::heterosock::layout
