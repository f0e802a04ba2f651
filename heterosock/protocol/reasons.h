// Why a connection is on TCP: one list for the wire, shared memory, traces, heterosockctl and the metrics.
//
// Numbers are never reused, only added. Usable without libstdc++. Threading: pure functions.
//
//   Trace("fd %d stays on TCP: %s", fd, ReasonText(Reason::kNoPeer));
#pragma once

#include <cstdint>

namespace heterok8s::heterosock::protocol {

enum class Reason : uint32_t {
  kNone = 0,
  // Said by the agent, in REFUSED, DECLINED and FENCE.
  kPolicy = 1,     // these two may not share memory
  kNoPeer = 2,     // the other end made no offer in time: not preloaded, or on another machine
  kVersion = 3,    // the other end speaks no version of ours
  kNotTcp = 4,     // not an established TCP socket over IPv4 or IPv6
  kDuplicate = 5,  // this socket was offered before
  kExhausted = 6,  // memory, descriptors or credits of the trust domain
  kAgentError = 7,
  kTooManyOffers = 8,  // more unanswered offers than WELCOME allows
  kUnknownSocket = 9,  // the kernel's own record of the socket was not found
  kAmbiguous = 10,     // several connections look like this one, and no token tells them apart
  kImplausible = 11,   // what the kernel counted at the two ends contradicts itself
  kAgentStopping = 12,
  kTooManyProcesses = 13,  // of this user or cgroup
  kPeerWithdrew = 15,      // the other end went away while the channel was made
  kOperator = 16,          // heterosockctl fence
  kPolicyChanged = 17,
  kClosed = 18,  // the connection ended
  // Found by the library.
  kNoAgent = 32,       // nobody answers at the agent's path
  kShared = 33,        // more than one process holds the socket
  kSocketOption = 34,  // an option that shared memory cannot honour
  kOutOfBand = 35,
  kByteCount = 36,  // bytes moved behind the library's back: the kernel counts others than it does
  kPassed = 37,     // sent to another process (SCM_RIGHTS)
  kExec = 38,       // inherited by a program that may not have the library
  kStdio = 39,      // fdopen, or numbers 0 to 2: libc reads and writes the descriptor itself
  kIoUring = 40,
  kSplice = 41,
  kPeerAsked = 42,    // the other side asked for TCP
  kAgentFence = 43,   // the agent asked for TCP
  kPeerClosed = 44,   // the peer sent FIN: the kernel answers writes from here on
  kCorrupt = 45,      // the other side wrote what cannot be
  kDescriptors = 46,  // no room for hidden descriptors
  kEpoll = 47,        // in an epoll set in a way that only the kernel can serve
  kDisabled = 48,
  kMemory = 49,       // the channel could not be mapped
  kSeccomp = 50,      // the program gives up system calls, or rdtsc, that the library needs
  kLargeSet = 51,     // select() with sets of more than FD_SETSIZE descriptors
  kKernel = 52,       // the kernel lacks what the library needs
  kUnread = 53,       // the ring was full and nobody read: TCP's buffers take more
  kAio = 54,          // given to io_submit, aio_read and the like, which read and write the descriptor unseen
  kInside = 55,       // some call on it was always in the kernel when it could have moved
  kIdle = 56,         // too few calls and bytes for an offer
  kAgentSilent = 57,  // there is an agent, which has not answered, or does not read
};

constexpr const char* ReasonText(Reason reason) {
  switch (reason) {
    case Reason::kNone:
      return "none";
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
    case Reason::kTooManyOffers:
      return "too many offers without an answer";
    case Reason::kUnknownSocket:
      return "the kernel does not know the socket";
    case Reason::kAmbiguous:
      return "several connections look like this one";
    case Reason::kImplausible:
      return "the two ends contradict each other";
    case Reason::kAgentStopping:
      return "the agent stops";
    case Reason::kTooManyProcesses:
      return "too many processes";
    case Reason::kPeerWithdrew:
      return "the other end went away";
    case Reason::kOperator:
      return "an operator asked for TCP";
    case Reason::kPolicyChanged:
      return "the policy changed";
    case Reason::kClosed:
      return "closed";
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
      return "stdio";
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
    case Reason::kSeccomp:
      return "the program gives up system calls";
    case Reason::kUnread:
      return "nobody reads, and TCP's buffers take more";
    case Reason::kLargeSet:
      return "select() with sets larger than an fd_set";
    case Reason::kKernel:
      return "the kernel lacks what the library needs";
    case Reason::kAio:
      return "asynchronous I/O";
    case Reason::kInside:
      return "a call on it has not come back from the kernel";
    case Reason::kIdle:
      return "too few calls and bytes for an offer";
    case Reason::kAgentSilent:
      return "the agent has not answered";
  }
  return "unknown";
}

}  // namespace heterok8s::heterosock::protocol
