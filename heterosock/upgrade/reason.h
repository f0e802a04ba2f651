// Why a connection is on TCP. The numbers travel (messages, CounterLine::fenced), so they are only ever added to.
#pragma once

#include <cstdint>

namespace heterok8s::heterosock {

enum class Reason : uint32_t {
  kNone = 0,
  // Said by the agent when it declines an offer.
  kPolicy = 1,     // these two may not share memory
  kNoPeer = 2,     // the other end made no offer in time: not preloaded, or on another machine
  kVersion = 3,    // the other end speaks no layout of ours
  kNotTcp = 4,     // not an established TCP socket
  kDuplicate = 5,  // this socket was offered before
  kExhausted = 6,  // memory, descriptors or credits of the trust domain
  kAgentError = 7,
  // Found by the library.
  kNoAgent = 32,       // nobody answers at the agent's path
  kShared = 33,        // more than one process holds the socket
  kSocketOption = 34,  // an option that shared memory cannot honour
  kOutOfBand = 35,
  kByteCount = 36,  // bytes moved behind our back: the kernel counts others than we do
  kPassed = 37,     // sent to another process (SCM_RIGHTS)
  kExec = 38,       // inherited by a program that may not have the library
  kStdio = 39,      // fdopen: libc reads and writes the descriptor itself
  kIoUring = 40,
  kSplice = 41,
  kPeerAsked = 42,    // the other side set kFlagWantTcp
  kAgentFence = 43,   // heterosockctl fence, or the policy changed
  kPeerClosed = 44,   // the peer sent FIN: the kernel answers writes from here on
  kCorrupt = 45,      // the other side wrote what cannot be
  kDescriptors = 46,  // no room for hidden descriptors
  kEpoll = 47,        // in an epoll set in a way that only the kernel can serve
  kDisabled = 48,     // HETEROSOCK=off
  kMemory = 49,       // the channel could not be mapped
};

constexpr const char* Text(Reason reason) {
  switch (reason) {
    case Reason::kNone:
      return "";
    case Reason::kPolicy:
      return "the policy does not allow this pair";
    case Reason::kNoPeer:
      return "the other end made no offer";
    case Reason::kVersion:
      return "the other end speaks another version";
    case Reason::kNotTcp:
      return "not an established TCP socket";
    case Reason::kDuplicate:
      return "the socket was offered before";
    case Reason::kExhausted:
      return "the trust domain has no memory left";
    case Reason::kAgentError:
      return "the agent failed";
    case Reason::kNoAgent:
      return "no agent";
    case Reason::kShared:
      return "more than one process holds the socket";
    case Reason::kSocketOption:
      return "a socket option that only the kernel can honour";
    case Reason::kOutOfBand:
      return "out-of-band data";
    case Reason::kByteCount:
      return "bytes moved behind the library's back";
    case Reason::kPassed:
      return "the socket was passed to another process";
    case Reason::kExec:
      return "a program without the library inherited the socket";
    case Reason::kStdio:
      return "fdopen";
    case Reason::kIoUring:
      return "io_uring";
    case Reason::kSplice:
      return "splice";
    case Reason::kPeerAsked:
      return "the other end asked for TCP";
    case Reason::kAgentFence:
      return "the agent asked for TCP";
    case Reason::kPeerClosed:
      return "the other end closed its direction";
    case Reason::kCorrupt:
      return "the other end broke the protocol";
    case Reason::kDescriptors:
      return "no file descriptors left";
    case Reason::kEpoll:
      return "an epoll registration that only the kernel can serve";
    case Reason::kDisabled:
      return "switched off";
    case Reason::kMemory:
      return "the channel could not be mapped";
  }
  return "unknown reason";
}

}  // namespace heterok8s::heterosock
