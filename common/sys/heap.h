// How much memory a daemon keeps for itself.
//
// Purpose: glibc gives every few threads an arena of their own, up to eight for each CPU, and an arena keeps what was
// freed in it. A burst of calls on many threads leaves tens of megabytes behind of which nothing is in use. A daemon
// bounds the arenas at its start and hands unused pages back while it idles.
// Threading: BoundArenas() before the second thread, TrimHeap() on one thread, the others any. Errors: none.
//
//   sys::BoundArenas();
//   while (!stopped.WaitFor(10s)) sys::TrimHeap();
#pragma once

#include <cstdint>

namespace heterok8s::sys {

void BoundArenas();

// What malloc() gave out and has not got back, in bytes. Thread caches count as given out: some hundred kilobytes.
uint64_t HeapInUse();

// Gives unused pages back when this process has grown by some megabytes since the last time it did. Milliseconds then,
// microseconds else.
void TrimHeap();

}  // namespace heterok8s::sys
