// This process's connection to its agent, and what the agent orders. Private to upgrade/.
//
// Threading: `agent` is guarded by `agent_lock`, which is taken with signals blocked (lib/quiet.h). Obey() asks for the
// locks of slots, so it comes after the release.
//
//   FenceOrder order;
//   {
//     const SignalsBlocked quiet;
//     if (!agent_lock.TryAcquire()) return;
//     order = PollAgent();
//     agent_lock.Release();
//   }
//   if (order.wanted) Obey(order);
#pragma once

#include "heterosock/ofd/lock.h"
#include "heterosock/upgrade/agent_link.h"

namespace heterok8s::heterosock {

extern SharedLock agent_lock;
extern AgentLink agent;

// Connections that the agent wants on TCP: fences ask for other locks, so they are collected and done later.
struct FenceOrder {
  bool wanted = false;
  uint64_t channel_id = 0;  // 0: all
  Reason reason = Reason::kNone;
};

// Reads what the agent has said and does all of it but fences. With the lock held.
FenceOrder PollAgent();
// Without it.
void Obey(const FenceOrder& order);

}  // namespace heterok8s::heterosock
