// The arithmetic of one byte ring (layout/channel.h): where bytes lie, how many may be written or read, and whether
// what the other side says can be true. Pure functions over private copies; the callers do the atomics.
//
// Threading: none of its own. Errors: a claim that cannot be is reported, never repaired.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

namespace heterok8s::heterosock::ring {

// Bytes between two cumulative offsets, or kImpossible when the receiver would be ahead of the sender or a ring behind.
inline constexpr uint64_t kImpossible = ~uint64_t{0};
constexpr uint64_t Used(uint64_t tail, uint64_t head, uint64_t size) {
  const uint64_t used = tail - head;
  return used <= size ? used : kImpossible;
}

constexpr bool ValidSize(uint64_t size, uint64_t ring_bytes, uint64_t smallest) {
  return size >= smallest && size <= ring_bytes && (size & (size - 1)) == 0;
}

// `at` is a position in the ring, less than size; n is at most size.
inline void CopyIn(uint8_t* ring, uint64_t size, uint64_t at, const void* source, size_t n) {
  const size_t first = n < size - at ? n : static_cast<size_t>(size - at);
  memcpy(ring + at, source, first);
  if (first < n) memcpy(ring, static_cast<const uint8_t*>(source) + first, n - first);
}
inline void CopyOut(const uint8_t* ring, uint64_t size, uint64_t at, void* target, size_t n) {
  const size_t first = n < size - at ? n : static_cast<size_t>(size - at);
  memcpy(target, ring + at, first);
  if (first < n) memcpy(static_cast<uint8_t*>(target) + first, ring, n - first);
}

// A sender is woken when a quarter of the ring is free: earlier, it would wake for every little read.
constexpr bool Roomy(uint64_t used, uint64_t size) { return size - used >= size / 4; }

}  // namespace heterok8s::heterosock::ring
