// What libheterosock and heterosockd say to each other: the whole wire format, for both sides.
//
// Transport: a Unix socket of type SOCK_SEQPACKET at the path in HETEROSOCK_AGENT (default kDefaultAgentPath). One
// packet is one message: a struct below, byte for byte, little-endian, with the descriptors it brings as one
// SCM_RIGHTS. Both sides set MSG_CMSG_CLOEXEC. Reserved fields are zero; a message that is not exactly as described
// here (size, zeros, number of descriptors) is malformed, and who receives one drops the connection.
//
//   library                                heterosockd
//     HELLO{versions}                  ->
//                                      <-  WELCOME{epoch, limits}   or  REFUSED{reason}, and the end
//     OFFER{id} + socket [+ bell]      ->      looks at the socket, closes it, waits for the other end's OFFER
//                                      <-  PAIRED{id, side, epoch, nonce, sizes} + memory + bells
//                                      or  DECLINED{id, reason}
//     RELEASE{id, counters}            ->      the connection is over, or is TCP again
//                                      <-  FENCE{id or all, reason}: go back to TCP
//
// An upgrade costs each side one OFFER and one PAIRED. Between PAIRED and RELEASE the data path needs no agent: both
// sides write epoch and nonce to their shared memory, and each goes on when it sees the other's. An agent that dies
// takes nothing with it; a library that connects to the next one says RESUME for what it still holds, for accounting.
//
// The library never waits for an answer: until PAIRED comes, and whenever anything is odd, the connection is TCP.
// The agent believes nothing a message claims: who talks is SO_PEERCRED and the offered socket itself.
//
// Usable without libstdc++ and without allocation. Threading: plain values.
#pragma once

#include <cstddef>
#include <cstdint>

namespace heterok8s::heterosock::protocol {

constexpr char kDefaultAgentPath[] = "/run/heterosock/agent.sock";
constexpr char kAgentPathVariable[] = "HETEROSOCK_AGENT";

// Raised when a message changes in a way that an older side would misread.
constexpr uint16_t kVersion = 1;

constexpr size_t kMaxMessageBytes = 128;
constexpr size_t kMaxDescriptors = 6;

enum class Type : uint16_t {
  // library -> agent
  kHello = 1,
  kOffer = 2,
  kWithdraw = 3,
  kRelease = 4,
  kResume = 5,
  // agent -> library
  kWelcome = 64,
  kRefused = 65,
  kPaired = 66,
  kDeclined = 67,
  kFence = 68,
};

struct Header {
  uint16_t type;  // Type
  uint16_t size;  // bytes of the whole message
  uint32_t reserved;
};

// The first message of a library. No descriptors.
struct Hello {
  static constexpr Type kType = Type::kHello;
  Header header;
  uint16_t version_min, version_max;  // of this protocol
  uint32_t layout_version;            // of the shared memory; ends with different ones are not paired
  uint64_t features;                  // none yet
};

// The answer. No descriptors.
struct Welcome {
  static constexpr Type kType = Type::kWelcome;
  Header header;
  uint16_t version;  // the highest that both know
  uint16_t reserved;
  uint32_t offer_deadline_ms;   // a PAIRED or DECLINED comes within this time
  uint64_t epoch;               // of this run of the agent; never zero
  uint32_t max_pending_offers;  // more OFFERs without an answer than this are DECLINED(kTooManyOffers)
  uint32_t max_channels;        // per process
  uint32_t ring_bytes;          // of one direction, a power of two
  uint32_t record_bytes;        // of one arena record; 0: no arena
};

// Instead of Welcome; the agent closes after it. No descriptors.
struct Refused {
  static constexpr Type kType = Type::kRefused;
  Header header;
  uint16_t reason;  // Reason
  uint16_t version_min, version_max;
  uint16_t reserved;
  uint32_t retry_after_ms;  // 0: not worth trying again
  uint32_t reserved2;
};

// "This socket showed signs of life." Descriptors: the socket; with kOfferHasBell also the write end of a pipe by which
// the other end wakes this one (see Paired). The agent closes its copy of the socket at once, because a second holder
// would keep the kernel from sending FIN.
enum OfferFlags : uint32_t { kOfferHasBell = 1 };
struct Offer {
  static constexpr Type kType = Type::kOffer;
  Header header;
  uint64_t offer_id;  // chosen by the library, not zero, not in use on this connection
  uint32_t flags;     // OfferFlags
  uint32_t bell_id;   // with kOfferHasBell: which of this process's bells it is, as the other end will see it
};

// The offer, or what came of it, is of no interest any more: the socket was closed before PAIRED was used. An answer
// may be under way already; it is then thrown away by the library. No descriptors.
struct Withdraw {
  static constexpr Type kType = Type::kWithdraw;
  Header header;
  uint64_t offer_id;
};

// What the descriptors of Paired are, in the order in which they come.
//
// Memory: one sealed memfd (F_SEAL_SHRINK|GROW|SEAL) for each side holds everything that this side writes: its line of
// control words, its ring, and nothing else. It is mine read-write and theirs read-only, so no byte has two writers and
// the peer cannot change what I published. (Root in the same Pod could open it again for writing: what one side must
// rely on belongs in its private memory, and everything read from the peer is checked.)
//
// Bells: pipes. To ring, write 8 bytes of anything; EAGAIN means it is ringing already. To clear, read until EAGAIN.
// The write end is an open file description of its own and O_NONBLOCK, so no peer can make ringing block. A bell of the
// agent's making (kBellMine and kBellTheirs) belongs to this channel alone. When the other end offered a bell of its
// own, kBellTheirs is that one, named by (peer_process, peer_bell): a library that has it already closes the copy.
enum class Descriptor : uint8_t {
  kNone = 0,
  kMemoryMine = 1,    // read-write
  kMemoryTheirs = 2,  // read-only
  kBellMine = 3,      // read end; absent when the offer brought a bell
  kBellTheirs = 4,    // write end
  kArenaMine = 5,     // read-write records for what I send; same for all channels of my domain to the peer's domain
  kArenaTheirs = 6,   // read-only
};

struct Paired {
  static constexpr Type kType = Type::kPaired;
  Header header;
  uint64_t offer_id;
  uint64_t epoch;         // of the agent that paired
  uint64_t nonce;         // of this channel; both ends have the same
  uint64_t channel_id;    // for people: the same in heterosockctl for both ends
  uint64_t peer_process;  // stands for the process at the other end as long as this agent runs
  uint32_t peer_bell;
  uint8_t side;  // 0 or 1; the two ends differ
  uint8_t reserved[3];
  uint8_t descriptors[8];  // Descriptor each, kNone behind the last
  uint64_t memory_bytes;   // of each memfd
  uint64_t arena_bytes;    // of each arena memfd, 0 without
  uint64_t arena_mine_id;  // arenas with the same id are the same memory: map it once
  uint64_t arena_theirs_id;
};

// No descriptors.
struct Declined {
  static constexpr Type kType = Type::kDeclined;
  Header header;
  uint64_t offer_id;
  uint16_t reason;  // Reason
  uint16_t reserved;
  uint32_t retry_after_ms;  // 0: never again for this socket
};

// The data path of one channel, seen by one side; for people and for metrics.
struct Counters {
  uint64_t tx_shared_bytes, rx_shared_bytes;
  uint64_t tx_tcp_bytes, rx_tcp_bytes;  // before the switch and after a fence
  uint64_t rings;                       // bells rung
  uint64_t sleeps;                      // times this side blocked
  uint64_t spin_ns;
  uint64_t arena_records;  // used by bursts that outgrew the ring
};

// The channel is no longer used by this process. No descriptors.
struct Release {
  static constexpr Type kType = Type::kRelease;
  Header header;
  uint64_t offer_id;
  uint16_t reason;  // Reason; kClosed when the connection simply ended
  uint16_t reserved[3];
  Counters counters;
};

// After a reconnect, or in a child that inherited the channel: the agent counts it again. Descriptors: the socket
// (looked at and closed, as for Offer) and kMemoryMine.
struct Resume {
  static constexpr Type kType = Type::kResume;
  Header header;
  uint64_t offer_id;  // from now on the channel's name on this connection
  uint64_t epoch;     // as in its Paired
  uint64_t nonce;
  uint64_t channel_id;
  uint8_t side;
  uint8_t reserved[7];
};

// Hand the stream back to TCP. Answered by a RELEASE when that is done. No descriptors.
struct Fence {
  static constexpr Type kType = Type::kFence;
  Header header;
  uint64_t offer_id;  // 0: every channel of this process
  uint16_t reason;    // Reason
  uint16_t reserved;
  uint32_t reserved2;
};

static_assert(sizeof(Header) == 8);
static_assert(sizeof(Hello) == 24 && offsetof(Hello, layout_version) == 12 && offsetof(Hello, features) == 16);
static_assert(sizeof(Welcome) == 40 && offsetof(Welcome, epoch) == 16 && offsetof(Welcome, record_bytes) == 36);
static_assert(sizeof(Refused) == 24 && offsetof(Refused, retry_after_ms) == 16);
static_assert(sizeof(Offer) == 24 && offsetof(Offer, bell_id) == 20);
static_assert(sizeof(Withdraw) == 16);
static_assert(sizeof(Paired) == 96 && offsetof(Paired, peer_bell) == 48 && offsetof(Paired, descriptors) == 56 &&
              offsetof(Paired, memory_bytes) == 64);
static_assert(sizeof(Declined) == 24 && offsetof(Declined, retry_after_ms) == 20);
static_assert(sizeof(Counters) == 64);
static_assert(sizeof(Release) == 88 && offsetof(Release, counters) == 24);
static_assert(sizeof(Resume) == 48 && offsetof(Resume, side) == 40);
static_assert(sizeof(Fence) == 24);
static_assert(sizeof(Paired) <= kMaxMessageBytes && sizeof(Release) <= kMaxMessageBytes);
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is little-endian; a big-endian side must swap");

// A message of type T with its header filled and everything else zero.
template <typename T>
constexpr T Make() {
  T message{};
  message.header.type = static_cast<uint16_t>(T::kType);
  message.header.size = sizeof(T);
  return message;
}

}  // namespace heterok8s::heterosock::protocol
