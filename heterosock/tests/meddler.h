// Faults between a library and the agent: a relay that speaks for the agent and does one thing wrong.
//
// It relays every message of heterosock/protocol, with its descriptors, between the programs of one case and a real
// heterosockd, and at one step of a connection's hand-over commits the fault that it was made for. What the programs
// then say must be what Linux says: a connection may stay on TCP or come back to it, nothing else may be seen.
//
// The agent knows a process by the socket that it connected, so that a program of a case says Introduce() first: it
// connects to the agent and leaves the socket to the relay. A child that it forks later is known as the relay's
// process.
//
// Threading: one thread of its own, which ends with the object. Errors: what cannot be set up aborts the test.
//
//   Meddler meddler(agent.path(), Faults()[n], stage->faulty);
//   RunOnce(name, mode, {library, meddler.environment()});
#pragma once

#include <sys/types.h>

#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "heterosock/protocol/messages.h"

namespace heterok8s::heterosock::behaviour {

enum class Misdeed {
  kLose,           // the message never arrives
  kLate,           // it arrives kLateMs later, and what follows it too
  kCut,            // the agent dies instead of reading or sending it; kComebackMs later there is one again
  kCutAfter,       // it dies right after
  kTwice,          // the message arrives twice
  kNoDescriptors,  // the kernel did not pass them (a process with no room for them: MSG_CTRUNC)
  kUnsealed,       // of PAIRED and RESUME: memory that could shrink
  kOldMemory,      // of PAIRED: memory of another layout version
  kOldLayout,      // of HELLO: the end says an older layout version
  kOldProtocol,    // of HELLO: the end speaks only another version of the protocol
  kRefuse,         // of WELCOME: REFUSED, try again soon
  kDecline,        // of PAIRED: DECLINED, try again soon; the channel is released
  kFence,          // right behind the message: FENCE to the library, all channels
  kFenceLate,      // the same, kLateMs later
};

struct Fault {
  const char* name;
  protocol::Type at;
  Misdeed misdeed;
  int which;  // 1, 2: the first or second such message of the whole case; 0: every one
};

// Every fault of a hand-over, in its order; first those of mixed versions.
constexpr size_t kVersionFaults = 4;
const std::vector<Fault>& Faults();

// Those of an end that hands its socket on while the other end is away: for cases that do so (Body::hands_on).
const std::vector<Fault>& HandOnFaults();

class Meddler {
 public:
  static constexpr int kLateMs = 15;
  static constexpr int kComebackMs = 30;

  // Relays to the agent at `agent`, and sets `committed` to 1 when the step is reached; both references outlive it.
  Meddler(const std::string& agent, const Fault& fault, std::atomic<uint32_t>& committed);
  ~Meddler();
  Meddler(const Meddler&) = delete;
  Meddler& operator=(const Meddler&) = delete;

  // What a program of the case needs.
  std::vector<std::string> environment() const;

  static void Introduce();

 private:
  class Relay;
  std::string agent_, folder_, path_;
  std::unique_ptr<Relay> relay_;
};

}  // namespace heterok8s::heterosock::behaviour
