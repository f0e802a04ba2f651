// Makes what a channel consists of, and reads what its two ends count.
//
// Purpose: one sealed memfd with the channel's header filled in, and two bells. The agent keeps a descriptor of the
// memory to read counters, by pread: a hostile end can then neither truncate it under a mapping nor be believed.
// Threading: any thread. Ownership: the caller owns all descriptors. Errors: kResourceExhausted and others of errno.
//
//   HK_ASSIGN_OR_RETURN(ChannelParts parts, MakeChannel({.id = 7, .epoch = epoch, .nonce = nonce}, ring_bytes));
#pragma once

#include <array>
#include <cstdint>

#include "common/status/status.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::heterosock::agent {

struct ChannelName {
  uint64_t id = 0, epoch = 0, nonce = 0;
  bool operator==(const ChannelName&) const = default;
};

struct Bell {
  sys::UniqueFd sleeper, ringer;  // of a pipe; the ringer can be read too, where there is /proc
};

struct ChannelParts {
  sys::UniqueFd memory;
  uint64_t bytes = 0;
  Bell bells[2];  // of each side
};

// `ring_bytes`: of each direction, a power of two.
absl::StatusOr<ChannelParts> MakeChannel(const ChannelName& name, uint32_t ring_bytes);
absl::StatusOr<Bell> MakeBell();

// True when the kernel can seal memory. Without, no channel is made: an end could truncate what the other has mapped,
// which libraries refuse (upgrade/mapping.cc).
bool CanSeal();

// What a library that says RESUME must show: sealed memory with this channel's header. Returns its size in bytes.
// kUnimplemented: the memory is of another version of the layout.
absl::StatusOr<uint64_t> CheckChannel(int memory, const ChannelName& name);

// Counters of a side as it wrote them; a hostile side may write anything.
struct SideCounters {
  uint64_t sent = 0, received = 0;          // bytes through shared memory
  uint64_t tcp_sent = 0, tcp_received = 0;  // bytes before the switch
  uint64_t sends = 0, receives = 0, sleeps = 0, rings = 0, spins = 0, full = 0;
  uint32_t pid = 0, fenced = 0;
  bool switched = false, back_on_tcp = false;  // this side's sending
};
absl::StatusOr<std::array<SideCounters, 2>> ReadCounters(int memory);
// Bytes of memory that the channel really uses.
uint64_t UsedBytes(int memory);

}  // namespace heterok8s::heterosock::agent
