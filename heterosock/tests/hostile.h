// The two ends of hostile_test: a peer that writes whatever it can into the shared memory, and its victim.
//
// Threading: each end is a process of one thread.
//
//   const bool attacks = (end.role == Role::kServer) == accepts;
//   if (attacks) AttackerEnd(end, Attacks()[index], seed);
//   VictimEnd(end, Attacks()[index]);
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <vector>

#include "heterosock/tests/case.h"
#include "heterosock/tests/channels.h"

namespace heterok8s::heterosock::behaviour {

inline constexpr char kVictims = 'V';  // every byte the victim sends to the attacker; the attacker never sends one
inline constexpr auto kAttackTime = std::chrono::milliseconds(150);
inline constexpr size_t kSent = 3000;

struct Attack {
  const char* name;
  std::function<void(End&, const Mapping&, std::mt19937_64&)> act;
  bool before = false;  // the victim begins when it is over; what it sends then is taken
  bool slow = false;    // and it is no attack, but an agent that takes its time
  bool blocks = false;  // and the victim's calls may block
  bool honest = false;  // it lies of nothing that says which bytes there are: all that comes is what the attacker sent
  bool early = false;   // it begins as soon as the attacker has the memory, before the connection moves
  bool stops = false;   // its process does not end by itself
};
const std::vector<Attack>& Attacks();

// The attacker's stream: bytes that tell their place. None is the victim's; nor what Warm() sent, nor 0 as in memory
// that nobody wrote, which both may come again from where they lie in the attacker's ring.
inline char ByteAt(size_t at) { return static_cast<char>('a' + (at * 2'654'435'761u >> 13) % 20); }

// Moves, attacks, goes on as if nothing were, goes.
[[noreturn]] void AttackerEnd(End& e, const Attack& what, uint64_t seed);

// Sends, receives and polls meanwhile, uses a connection of its own, and says what it saw.
[[noreturn]] void VictimEnd(End& e, const Attack& what);

// The connection between the two ends, moved unless the attack is to begin before that.
void Join(End& e, const Attack& what);

}  // namespace heterok8s::heterosock::behaviour
