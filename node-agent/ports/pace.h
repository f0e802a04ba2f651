// How often the event thread of BpfPorts does what takes long, and how much of it at a time.
//
// Purpose: what one Pod causes costs no other Pod's report more than some milliseconds, and heterod no more than a part
// of a CPU. Threading, ownership, errors: none; constants. Times are of CLOCK_MONOTONIC.
//
//   if (MonotonicNs() >= swept_at_ns + kGoneNs) ...
#pragma once

#include <cstddef>
#include <cstdint>

#include "node-agent/ports/layout.h"

namespace heterok8s::ports {

// Nothing wakes the thread up for an event that found the ring full and is counted after the ring was read.
inline constexpr int kIdleMs = 1000;

// How often to look for room for sockets that found none, and for Pods that are gone.
inline constexpr uint64_t kUnownedNs = 500'000'000;

// A socket leaves the sockhash a moment after the event that announces it.
inline constexpr uint64_t kSlotFreeNs = 20'000'000;
inline constexpr int kSlotPollMs = 20;

// A comparison walks through the claims of all Pods, so there is one in this time at most, whoever asks. And what one
// Pod changes comes to the other PU at 10,000 changes a second at most: who changes more is heard less often.
inline constexpr uint64_t kComparePauseNs = HK_WINDOW_NS;
inline constexpr uint64_t kPauseForAChangeNs = 100'000;
inline constexpr int kComparePollMs = 20;
// After a walk that failed.
inline constexpr uint64_t kWalkAgainNs = 1'000'000'000;
// Claims that are compared in one go, while events wait.
inline constexpr size_t kClaimsAtOnce = 1024;

// Scans take a quarter of a CPU for each Pod at most, as an average over some seconds.
inline constexpr uint64_t kScanShare = 4, kScanCreditNs = 1'000'000'000;

// So long after a Pod's entry in `pods` went its other entries stay. A program that has still seen it runs for some
// microseconds; waiting for the kernel's grace period would make each DEL some 10 ms longer.
inline constexpr uint64_t kGoneNs = 1'000'000'000;

}  // namespace heterok8s::ports
