// Random socket programs of two ends: made from a seed, the same in both processes, run in lock step.
//
// A program has two connections and some number of steps; each is one call, or a few, of one end, or a transfer between
// both. It is generated with a model of what is in flight, so that whatever a step says is defined by Linux: a reader
// acts only when all that was sent has arrived, nobody waits for what will not come, and no write meets a full buffer
// unless the other end reads at the same time. A program cut short is a program.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {

enum class Act {
  kSend,       // a: bytes; b: by which call
  kReceive,    // a: room; b: by which call
  kBulk,       // a: bytes, from `end` to the other, b: chunk sizes
  kPoll,       // a: events; b: poll, ppoll or select
  kCount,      // FIONREAD, SIOCOUTQ
  kDuplicate,  // a: by which call
  kCloseCopy,  // one of several descriptors
  kOverwrite,  // dup2 of one over another
  kNonBlock,   // a: on or off
  kEpollAdd,   // a: events; b: which set and descriptor
  kEpollMod,
  kEpollDel,
  kEpollWait,  // b: which set
  kHalfClose,
  kClose,    // a: 1 with SO_LINGER 0
  kTimeout,  // a read that SO_RCVTIMEO ends
  kSignal,   // a read that a signal ends
  kError,    // SO_ERROR and TCP state
  kSplice,   // a: bytes, into a pipe of one page; b: how often before it is emptied
  kShutRead,
  kOption,  // b: which
  kSpawn,   // a: bytes that another program reads or writes; b: how it is given the connection
};

// Who makes the calls of a step: the process itself, a thread of it, a child of it.
enum class Actor { kSelf, kThread, kChild };

struct ProgramStep {
  Act act;
  Actor actor = Actor::kSelf;
  int end = 0;   // by role
  int conn = 0;  // 0 or 1
  uint32_t a = 0, b = 0;
};

std::vector<ProgramStep> MakeProgram(uint64_t seed, size_t steps);
std::string Describe(const ProgramStep& step);

// Connects, runs the first `steps` of the program, and ends all connections in good order.
void RunProgram(End& end, uint64_t seed, size_t steps);

}  // namespace heterok8s::heterosock::behaviour
