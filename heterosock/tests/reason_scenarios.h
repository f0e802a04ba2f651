// Programs that do, each, one thing for which a connection of theirs is on TCP.
//
// Threading: each runs in a process of its own, which has the library and a trace.
//
//   for (const Scenario& each : Scenarios()) Start("--act", each.name);
#pragma once

#include <cstdint>
#include <span>

#include "heterosock/protocol/reasons.h"

namespace heterok8s::heterosock::behaviour {

constexpr char kStays[] = "stays on TCP: ", kHeld[] = "held back on TCP: ", kEnded[] = "ended on TCP: ",
               kReturns[] = "sends to TCP again: ";

struct Scenario {
  const char* name;
  protocol::Reason reason;
  const char* line;               // of the trace, in front of the reason
  void (*act)(const char* line);  // returns when the trace has it
  const char* environment = nullptr;
};
std::span<const Scenario> Scenarios();

// In the process that has the library; ends it. REASONS_PORT: of a program without the library that sends all back;
// REASONS_ADMIN and REASONS_AGENT: the agent's socket for heterosockctl, and its process.
int Act(const char* name);

// On 127.0.0.1.
int ListenOn(uint16_t* port);

}  // namespace heterok8s::heterosock::behaviour
