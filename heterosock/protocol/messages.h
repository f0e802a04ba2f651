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
//     OFFER{id} + socket               ->      looks at the socket, closes it, waits for the other end's OFFER
//                                      <-  PAIRED{id, channel, side, epoch, nonce} + memory + two bells
//                                      or  DECLINED{id, reason}
//     RELEASE{channel, reason}         ->      the connection is over, or is TCP again
//                                      <-  FENCE{channel or all, reason}: go back to TCP
//     HAND_BACK{channel}               ->      writes to TCP what the other end is too busy to bring back
//
// An upgrade costs each side one OFFER and one PAIRED. Between PAIRED and RELEASE the data path needs no agent: both
// sides write epoch and nonce to their shared memory, and each goes on when it sees the other's. An agent that dies
// takes nothing with it; a library that connects to the next one says RESUME for what it still holds, for accounting;
// what the agent cannot count is fenced.
//
// The library never waits for an answer: until PAIRED comes, and whenever anything is odd, the connection is TCP.
// The agent believes nothing a message claims: who talks is SO_PEERCRED and the offered socket itself.
//
// Usable without libstdc++ and without allocation. Threading: plain values.
#pragma once

#include <cstddef>
#include <cstdint>

namespace heterok8s::heterosock::protocol {

constexpr char kDefaultAgentPath[] = "/run/heterosock/pods/agent.sock";
constexpr char kAgentPathVariable[] = "HETEROSOCK_AGENT";

// Raised when a message changes in a way that an older side would misread.
constexpr uint16_t kVersion = 1;

constexpr size_t kMaxMessageBytes = 128;
constexpr size_t kMaxDescriptors = 3;

enum class Type : uint16_t {
  // library -> agent
  kHello = 1,
  kOffer = 2,
  kWithdraw = 3,
  kRelease = 4,
  kResume = 5,
  kHandBack = 6,
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
};

// Instead of Welcome; the agent closes after it. No descriptors.
struct Refused {
  static constexpr Type kType = Type::kRefused;
  Header header;
  uint32_t reason;  // Reason
  uint16_t version_min, version_max;
  uint32_t retry_after_ms;  // 0: not worth trying again
  uint32_t reserved;
};

// "This socket showed signs of life." One descriptor: the socket, connected, with bytes unread or on their way or not.
// The agent closes its copy at once, because a second holder would keep the kernel from sending FIN. Who offers counts
// the bytes that it writes and reads from the first one on: the layout needs them. The other end's OFFER must come
// within offer_deadline_ms, or this one is DECLINED(kNoPeer).
struct Offer {
  static constexpr Type kType = Type::kOffer;
  Header header;
  uint64_t offer_id;  // chosen by the library, not zero, not in use by another offer without an answer
};

// The offer is of no interest any more: the socket was closed before an answer came. One may be under way already; a
// channel in it is then released as any other. No descriptors.
struct Withdraw {
  static constexpr Type kType = Type::kWithdraw;
  Header header;
  uint64_t offer_id;
};

// The channel. Three descriptors:
//   1. memory: a sealed memfd (F_SEAL_SHRINK|GROW|SEAL), the same for both ends; heterosock/layout says what is where
//   2. own bell: the read end of a pipe, to sleep on
//   3. the peer's bell: the write end of another pipe, or both ends of it (O_RDWR): then ringing raises no SIGPIPE
// To ring, write 8 bytes of anything; EAGAIN means that it is rung already. To clear, read until EAGAIN. Pipes, because
// each end of one is an open file description of its own: a peer that clears O_NONBLOCK on its end, or fills the pipe,
// cannot make ringing block, as it could with an eventfd that both ends share.
// Who maps the memory makes sure of F_SEAL_SHRINK first; then it needs the descriptor for RESUME alone. The bells are
// non-blocking already.
struct Paired {
  static constexpr Type kType = Type::kPaired;
  Header header;
  uint64_t offer_id;
  uint64_t channel_id;                   // unique in one epoch; the same for both ends
  uint64_t epoch;                        // of the agent that paired
  uint64_t nonce;                        // of this channel; both ends have the same
  uint64_t memory_offset, memory_bytes;  // where the channel lies in the memfd; the offset is 0 so far
  uint8_t side;                          // 0: this end connected, 1: it accepted
  uint8_t reserved[7];
};

// No descriptors.
struct Declined {
  static constexpr Type kType = Type::kDeclined;
  Header header;
  uint64_t offer_id;
  uint32_t reason;          // Reason
  uint32_t retry_after_ms;  // 0: never again for this socket; else it may be offered anew after that time
};

// The channel is no longer used by this process. No descriptors.
struct Release {
  static constexpr Type kType = Type::kRelease;
  Header header;
  uint64_t channel_id;
  uint32_t reason;  // Reason; kClosed when the connection simply ended
  uint32_t reserved;
};

// After a reconnect, or in a child that inherited the channel: the agent counts it again. Descriptors: the socket
// (looked at and closed, as for Offer) and the memory. Not answered, but by FENCE where the end is another socket's as
// far as the agent knows, the domain has no credit left, or the memory is of a layout version that this agent does not
// have.
struct Resume {
  static constexpr Type kType = Type::kResume;
  Header header;
  uint64_t channel_id;  // these four as in its Paired
  uint64_t epoch;
  uint64_t nonce;
  uint8_t side;
  uint8_t reserved[7];
};

// This end called its unread bytes back (layout/channel.h) and the other end has not answered: it may be far from any
// call of its library. The agent takes that process's socket (pidfd_getfd) and writes them in its place. Once for each
// end; not answered: the other end's returned_to says when it is done. Where the agent cannot, nothing happens, and the
// other end does it with its next call. No descriptors.
struct HandBack {
  static constexpr Type kType = Type::kHandBack;
  Header header;
  uint64_t channel_id;
};

// Hand the stream back to TCP: bring the own direction back, and have the other one come back (recall_at, or
// kFlagWantTcp alone, in layout/channel.h). Of a single channel the agent has set kFlagWantTcp at both sides before,
// for processes that read no messages. Not answered; RELEASE comes when the channel is not used any more, at the latest
// when the connection is closed. No descriptors.
struct Fence {
  static constexpr Type kType = Type::kFence;
  Header header;
  uint64_t channel_id;  // 0: every channel of this process
  uint32_t reason;      // Reason
  uint32_t reserved;
};

static_assert(sizeof(Header) == 8);
static_assert(sizeof(Hello) == 24 && offsetof(Hello, layout_version) == 12 && offsetof(Hello, features) == 16);
static_assert(sizeof(Welcome) == 32 && offsetof(Welcome, epoch) == 16 && offsetof(Welcome, max_channels) == 28);
static_assert(sizeof(Refused) == 24 && offsetof(Refused, retry_after_ms) == 16);
static_assert(sizeof(Offer) == 16 && sizeof(Withdraw) == 16);
static_assert(sizeof(Paired) == 64 && offsetof(Paired, memory_offset) == 40 && offsetof(Paired, side) == 56);
static_assert(sizeof(Declined) == 24 && offsetof(Declined, retry_after_ms) == 20);
static_assert(sizeof(Release) == 24 && sizeof(Fence) == 24 && sizeof(HandBack) == 16);
static_assert(sizeof(Resume) == 40 && offsetof(Resume, side) == 32);
static_assert(sizeof(Paired) <= kMaxMessageBytes);
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
