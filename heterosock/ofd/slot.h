// The state of one tracked TCP socket: one per open file description, shared by every process that inherited it by
// fork.
//
// Slots live in memory that is shared with children (an anonymous MAP_SHARED mapping made with the first tracked
// socket), so parent and child see one truth about offsets and locks. What differs between processes (where the channel
// is mapped, the numbers of hidden descriptors) is in LocalChannel, an array of this process.
//
// What we publish to the peer is written from here and never read back: the peer can write the whole channel.
//
// Threading: `calls` and `mode` are atomic; the rest of a direction is guarded by its lock.
#pragma once

#include <stdint.h>

#include <atomic>

#include "heterosock/layout/channel.h"
#include "heterosock/notify/bell.h"
#include "heterosock/ofd/call_count.h"
#include "heterosock/ofd/lock.h"
#include "heterosock/upgrade/reason.h"

namespace heterok8s::heterosock {

enum class Phase : uint32_t {
  kTcp = 0,      // may become a candidate
  kOffered = 1,  // the agent has been asked
  kPaired = 2,   // the channel is mapped; arms as soon as nobody is inside a kernel call
  kArmed = 3,    // the directions may switch, each by itself
  kNever = 4,    // stays on TCP; `reason` says why
};

enum class Mode : uint32_t {
  kTcp = 0,        // bytes are counted, so that a switch knows where it is
  kRing = 1,       // shared memory
  kReturning = 2,  // sender only: bytes of the ring that the receiver will not read are being written to TCP
  kPlain = 3,      // TCP for good, nothing to count
};

// SendState::corks: who has set TCP_CORK.
inline constexpr uint32_t kCorkOfProgram = 1;
inline constexpr uint32_t kCorkOfKernel = 2;
inline constexpr uint32_t kCorkEver = 4;  // the program had once, since the connection is tracked

struct alignas(128) SendState {
  std::atomic<Mode> mode{Mode::kTcp};
  SharedLock lock;
  CallCount calls;
  uint64_t tail = 0;                // bytes put into the ring
  uint64_t base = 0;                // stream offset at byte 0 of the ring
  uint64_t head_seen = 0;           // the last head of the receiver that passed the check
  uint32_t rang = 0;                // the last rx_sleep that was rung for
  uint32_t sleep = 0;               // what our tx_sleep is
  std::atomic<uint32_t> full{0};    // counts sends that found no room: an edge is due when there is room again
  std::atomic<uint32_t> corks{0};   // kCorkOfProgram and the others (stream/cork.h)
  uint64_t checked = 0;             // Cycles() when the kernel was last asked about the peer
  uint32_t writes = 0;              // evidence of life
  uint32_t reach = 0;               // how far into the ring bytes went since it was last begun at its first byte
  uint32_t touched = 0;             // and since its memory was given back
  uint32_t segment = 0;             // bytes of a TCP segment of the connection; 0: not asked yet
  uint64_t reached_at = 0;          // Cycles() when they last went farther than what is always kept
  uint64_t returned_from = 0;       // kReturning: the first offset that is brought back to TCP
  uint64_t returned = 0;            // and the offset up to which that is done
  std::atomic<uint32_t> unrung{0};  // a sleeper was left asleep because more is to come
  uint32_t agent_until = 0;  // the agent is bringing bytes back: milliseconds from which on it is dead. 0: it is not
};

struct alignas(128) ReceiveState {
  std::atomic<Mode> mode{Mode::kTcp};
  SharedLock lock;
  CallCount calls;
  std::atomic<uint64_t> head{0};          // bytes taken from the ring
  uint32_t rang = 0;                      // the last tx_sleep that was rung for
  uint32_t sleep = 0;                     // what our rx_sleep is
  std::atomic<uint32_t> kernel_event{0};  // the kernel reported something on the socket: ask it before saying "empty"
  uint64_t checked = 0;
  uint32_t reads = 0;                   // evidence of life
  std::atomic<uint32_t> reset{0};       // an error that the next call is told of: the peer ended with bytes unread
  std::atomic<uint32_t> tells_left{0};  // TCP_INQ is set: recvmsg() tells how much is left
  std::atomic<uint32_t> shut{0};        // this side's SHUT_RD: the kernel says POLLRDHUP from then on
  uint64_t dropped = 0;                 // passing to TCP: copies of the ring's bytes that were thrown away there
  uint64_t tcp_base = 0;  // after that: what TCP had received when it had nothing but what the ring had had
  std::atomic<uint64_t> settle_until{0};  // whoever waits for what was called back stops then (ns); 0: nobody has yet
};

struct alignas(128) Slot {
  static constexpr int kHolders = 8;
  static constexpr int kSleepers = 8;
  static constexpr uint64_t kTold = ~uint64_t{0};

  std::atomic<uint32_t> used{0};
  std::atomic<uint32_t> holders{0};  // processes that have it; may be too high when one died
  std::atomic<uint32_t> pids[kHolders];
  std::atomic<Phase> phase{Phase::kTcp};
  std::atomic<Reason> reason{Reason::kNone};
  std::atomic<uint32_t> nonblocking{0};
  uint32_t generation = 0;           // of this use of the slot
  uint64_t retry_at = 0;             // Cycles() before which no offer is tried again
  uint64_t held_since = 0;           // Cycles() since when `reason` holds it back; 0: nothing does; kTold: and was told
  std::atomic<uint32_t> broken{0};   // the peer broke the protocol: reset
  std::atomic<uint32_t> spawned{0};  // a program that one of its holders started, and that nobody counts, may have it
  SharedLock bell_lock;
  // Threads that wait in poll() on the bell (stream/sleepers.h).
  uint32_t bell_sleepers[kSleepers] = {};
  uint32_t bell_crowd = 0;                // that found no place above: theirs are in Slots::Crowd()
  uint32_t bell_unnamed = 0;              // nor there: counted alone
  std::atomic<uint32_t> program_idle{0};  // TCP_KEEPIDLE as the program left it, while ours is set; 0: ours is not
  SendState tx;
  ReceiveState rx;
};
static_assert(sizeof(Slot) == 384);

// This process's view of a slot's channel. page is null while there is none.
struct LocalChannel {
  layout::ChannelPage* page = nullptr;
  uint8_t* out = nullptr;  // the ring this side writes
  const uint8_t* in = nullptr;
  uint32_t ring_bytes = 0;
  uint16_t side = 0;
  std::atomic<uint16_t> items{0};  // epoll registrations of this process
  uint64_t bytes = 0;              // of the mapping
  uint64_t channel_id = 0;
  uint64_t epoch = 0;
  uint64_t nonce = 0;
  int memfd = 0;  // 0: none. The array starts as zeros, which cost no memory
  int own_bell = 0;
  bell::Ringer peer_bell;
  bool bell_dead = false;        // nobody can ring it any more
  std::atomic<uint32_t> fds{0};  // descriptor numbers of this process that mean the slot
  std::atomic<uint32_t> first_item{0};
  std::atomic<bool> let_go{false};   // counted as no holder, for an exec
  std::atomic<bool> closing{false};  // its last descriptor is about to be closed: it is neither mapped nor armed
  std::atomic<uint32_t> offered{0};  // on which connection to the agent, while it has not answered
  uint32_t generation = 0;           // of the slot when this process, or the one that it is a fork of, took it
  uint64_t inode = 0;                // of the socket, once it was armed
  uint64_t full_at_head = 0;         // 1 + the receiver's head when a send last found the ring full
  uint64_t full_since_ns = 0;        // and since when, on CLOCK_MONOTONIC, the head has been that

  layout::SideLines& own() const { return page->side[side]; }
  layout::SideLines& peer() const { return page->side[1 - side]; }
};

// Sleepers of all slots that have more than fit into them: slot and thread id, or 0. And how often a connection that
// several processes have was seen moving by one of them: the sets of the others have to hear of it (epoll/wait.cc).
struct Crowd {
  static constexpr uint32_t kPlaces = 16384;  // untouched ones cost nothing

  std::atomic<uint32_t> moves{0};
  std::atomic<uint32_t> high{0};  // no place from here on was ever taken
  std::atomic<uint64_t> places[kPlaces];
};

class Slots {
 public:
  static constexpr uint32_t kCount = 65536;

  // A fresh slot held by this process, or -1 when memory or slots are out (the socket then stays untracked).
  static int Allocate();
  static Slot& Get(uint32_t index) { return slots_[index]; }
  static LocalChannel& Local(uint32_t index) { return local_[index]; }
  // Behind the slots, in the same shared memory.
  static Crowd& TheCrowd() { return *reinterpret_cast<Crowd*>(slots_ + kCount); }

  // This process lets go of a slot. True when it was the last holder we know of.
  static bool Drop(uint32_t index);
  // Around fork, with its result: every slot this process holds gets one more holder, which the child then names.
  static void BeforeFork();
  static void AfterFork(int child);
  // Around exec, of slots that other processes hold too and of which the new program inherits no descriptor: before it
  // this process lets go of them, as the kernel is about to. After one that failed it holds them again; true when one
  // was ended by the others meanwhile, whose Local().fds is 0 then.
  static void BeforeExec();
  static bool AfterFailedExec();
  // This process has let go of it for an exec that is under way.
  static bool LetGo(uint32_t index) { return local_[index].let_go.load(); }
  // In a child of a fork that nobody saw coming: it is one more holder of all that it has. Of what its parent let go
  // before, Local().fds is 0 afterwards: such a slot is not this process's.
  static void AfterUnseenFork();
  // True when only this process holds it; forgets holders that have died.
  static bool Alone(Slot& slot);

 private:
  static constexpr size_t kBytes = sizeof(Slot) * kCount + sizeof(Crowd);

  static bool Map();
  static bool Join(uint32_t index);
  static void LetGoForExec(uint32_t index);
  static constinit Slot* slots_;
  static LocalChannel local_[kCount];
};

// Puts the connection on TCP for good, which the trace says once: `fd` is one of its numbers, -1 has it looked up.
// False when it is armed: it is Fence() that brings it back then.
bool StayOnTcp(uint32_t index, Reason reason, int fd = -1);

}  // namespace heterok8s::heterosock
