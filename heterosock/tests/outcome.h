// Runs one case once, as two processes, and says what each end said and how it ended. With a fault in the mode, a
// Meddler stands between the case and the agent.
//
// Threading: RunOnce may be called from several threads. Every process of the case is gone when it returns.
#pragma once

#include <string>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {

struct Fault;  // meddler.h

struct Mode {
  const char* name;
  int family = 4;
  bool warm = false;            // the connection moves, or has met its fault, before the case begins
  bool preload_server = false;  // the library is in this end
  bool preload_client = false;
  bool without_agent = false;    // nobody answers: everything stays on TCP
  bool agent_dies = false;       // in the middle, at a random time
  bool stays = false;            // something else keeps every connection on TCP
  const Fault* fault = nullptr;  // of the agent, at one step
  bool plain() const { return !preload_server && !preload_client; }
};

struct Outcome {
  std::string said[2];     // by role: the lines of the end, and how its process ended
  unsigned moved[2] = {};  // by role: see Stage::moved
  bool faulty = false;     // the step at which the mode has its fault was reached
  std::string output;      // what the processes wrote to stdout and stderr, for people
  bool operator==(const Outcome& other) const { return said[0] == other.said[0] && said[1] == other.said[1]; }
  bool operator<(const Outcome& other) const {
    return said[0] != other.said[0] ? said[0] < other.said[0] : said[1] < other.said[1];
  }
};

struct Preload {
  std::string library;             // path; "" when there is none
  std::string client_library;      // of the client, where that has another one; "" when not
  std::vector<std::string> extra;  // more environment of the hooked processes
  std::string agent;               // path of the agent's socket; "" when there is none
};

// Where the two part: for each end the last lines they share, then what each said next.
std::string Difference(const Outcome& plain, const Outcome& ours);

Outcome RunOnce(const std::string& case_name, const Mode& mode, const Preload& preload);

}  // namespace heterok8s::heterosock::behaviour
