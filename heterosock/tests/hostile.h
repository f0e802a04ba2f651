// The two ends of hostile_test: a peer that writes whatever it can into the shared memory, and its victim.
//
// Threading: each end is a process of one thread.
//
//   if (end.role == Role::kServer) VictimEnd(end, Attacks()[index]);
//   AttackerEnd(end, Attacks()[index], seed);
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
};
const std::vector<Attack>& Attacks();

// Moves, attacks, goes on as if nothing were, goes.
[[noreturn]] void AttackerEnd(End& e, const Attack& what, uint64_t seed);

// Sends, receives and polls meanwhile, uses a connection of its own, and says what it saw.
[[noreturn]] void VictimEnd(End& e, const Attack& what);

inline void Send(int fd, char byte, size_t n, int flags = MSG_DONTWAIT) {
  std::string bytes(n, byte);
  send(fd, bytes.data(), n, flags | MSG_NOSIGNAL);
}

}  // namespace heterok8s::heterosock::behaviour
