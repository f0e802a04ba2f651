// Faults between a library and the agent: a relay that speaks for the agent and does one thing wrong.
//
// It relays every message of heterosock/protocol, with its descriptors, between the programs of one case and a real
// heterosockd, and at one step of a connection's hand-over commits the fault that it was made for. What the programs
// then say must be what Linux says: a connection may stay on TCP or come back to it, nothing else may be seen.
//
// Threading: one thread of its own, which ends with the object. Errors: what cannot be set up aborts the test.
//
//   Meddler meddler(agent.path(), FindFault("PAIRED lost"));
//   RunOnce(name, mode, {library, {"HETEROSOCK_AGENT=" + meddler.path()}});
#pragma once

#include <sys/types.h>

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
  kNoDescriptors,  // the kernel did not pass them (a process with no room for them: MSG_CTRUNC)
  kUnsealed,       // of PAIRED: memory that could shrink
  kOldMemory,      // of PAIRED: memory of another layout version
  kOldLayout,      // of HELLO: the end says an older layout version
  kOldProtocol,    // of HELLO: the end speaks only another version of the protocol
  kRefuse,         // of WELCOME: REFUSED, try again soon
  kDecline,        // of PAIRED: DECLINED, try again soon; the channel is released
  kFence,          // right behind the message: FENCE, all channels
  kFenceLate,      // the same, kLateMs later
};

struct Fault {
  const char* name;
  protocol::Type at;
  Misdeed misdeed;
  int which;  // 1, 2: the first or second such message of the whole case; 0: every one
};

// Every fault there is, in the order of a hand-over; first those of mixed versions.
constexpr size_t kVersionFaults = 4;
const std::vector<Fault>& Faults();

class Meddler {
 public:
  static constexpr int kLateMs = 15;
  static constexpr int kComebackMs = 30;

  // Relays to the agent at `agent`; `fault` outlives it.
  Meddler(const std::string& agent, const Fault& fault);
  ~Meddler();
  Meddler(const Meddler&) = delete;
  Meddler& operator=(const Meddler&) = delete;

  const std::string& path() const { return path_; }
  bool committed() const;  // the step was reached

 private:
  class Relay;
  std::string folder_, path_;
  std::unique_ptr<Relay> relay_;
};

}  // namespace heterok8s::heterosock::behaviour
