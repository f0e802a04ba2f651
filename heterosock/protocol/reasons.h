// Why a connection is on TCP: one list for the wire, the trace, heterosockctl and the metrics.
//
// Numbers are never reused. Usable without libstdc++. Threading: pure functions.
//
//   Trace("fd %d stays on TCP: %s", fd, ReasonText(Reason::kPeerNotCapable));
#pragma once

#include <cstdint>

namespace heterok8s::heterosock::protocol {

enum class Reason : uint16_t {
  kNone = 0,
  // Said by the agent, in REFUSED and DECLINED.
  kVersion = 1,         // protocols do not overlap
  kPeerNotCapable = 2,  // the other end made no offer in time
  kPolicy = 3,          // the two ends may not share memory
  kNoCredit = 4,        // the domain's share of memory or channels is used up
  kTooManyOffers = 5,   // more unanswered offers than WELCOME allows
  kNotTcp = 6,          // no established TCP socket over IPv4 or IPv6
  kUnknownSocket = 7,   // the kernel's own record of the socket was not found
  kAmbiguous = 8,       // several connections look like this one, and no token tells them apart
  kImplausible = 9,     // the two ends' counters contradict each other
  kLayoutVersion = 10,  // the ends' libraries write different shared memory
  kOutOfMemory = 11,    // no memory or descriptors for a channel
  kAgentStopping = 12,
  kTooManyProcesses = 13,  // of this cgroup or user
  kSelf = 14,              // both ends are the same open socket
  kPeerWithdrew = 15,      // the other end closed while the channel was made
  // Said by the agent in FENCE, by the library in RELEASE.
  kClosed = 32,    // the connection ended
  kOperator = 33,  // heterosockctl fence
  kPolicyChanged = 34,
  kPeerFenced = 35,
  kArmTimeout = 36,  // the other end did not map the channel in time
  // Said by the library in RELEASE: what a program did that shared memory cannot follow.
  kExec = 64,
  kScmRights = 65,
  kStdio = 66,  // fdopen
  kIoUring = 67,
  kSplice = 68,
  kOutOfBand = 69,
  kPeerBroken = 70,  // the peer's memory held what no honest peer writes
  kUlp = 71,         // kTLS and other protocols on top of the socket
  kOther = 72,
};

constexpr const char* ReasonText(Reason reason) {
  switch (reason) {
    case Reason::kNone:
      return "none";
    case Reason::kVersion:
      return "protocol version";
    case Reason::kPeerNotCapable:
      return "peer not capable";
    case Reason::kPolicy:
      return "policy";
    case Reason::kNoCredit:
      return "no credit";
    case Reason::kTooManyOffers:
      return "too many offers";
    case Reason::kNotTcp:
      return "not TCP";
    case Reason::kUnknownSocket:
      return "unknown socket";
    case Reason::kAmbiguous:
      return "ambiguous";
    case Reason::kImplausible:
      return "implausible";
    case Reason::kLayoutVersion:
      return "layout version";
    case Reason::kOutOfMemory:
      return "out of memory";
    case Reason::kAgentStopping:
      return "agent stopping";
    case Reason::kTooManyProcesses:
      return "too many processes";
    case Reason::kSelf:
      return "connected to itself";
    case Reason::kPeerWithdrew:
      return "peer withdrew";
    case Reason::kClosed:
      return "closed";
    case Reason::kOperator:
      return "operator";
    case Reason::kPolicyChanged:
      return "policy changed";
    case Reason::kPeerFenced:
      return "peer fenced";
    case Reason::kArmTimeout:
      return "peer did not arm";
    case Reason::kExec:
      return "exec";
    case Reason::kScmRights:
      return "SCM_RIGHTS";
    case Reason::kStdio:
      return "stdio";
    case Reason::kIoUring:
      return "io_uring";
    case Reason::kSplice:
      return "splice";
    case Reason::kOutOfBand:
      return "out-of-band data";
    case Reason::kPeerBroken:
      return "peer broke the format";
    case Reason::kUlp:
      return "protocol on top of TCP";
    case Reason::kOther:
      return "other";
  }
  return "unknown";
}

}  // namespace heterok8s::heterosock::protocol
