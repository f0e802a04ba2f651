// One packet with its descriptors over a SOCK_SEQPACKET Unix socket, never waiting.
//
// A packet is looked at before it is taken: a descriptor that does not fit would be closed by the kernel on the spot,
// and with it, perhaps, the last holder of a socket that lingers. What is not taken stays in the socket, whose close is
// the business of closer.h, as are a packet's descriptors when they are a stranger's.
//
// Threading: any thread, one at a time for each direction of a socket. Ownership: a received packet owns its
// descriptors; sending borrows them. Errors: see Received and Sent.
//
//   Packet packet;
//   while (ReceivePacket(fd, packet) == Received::kPacket) Handle(packet);
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "common/status/status.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::heterosock::agent {

struct Packet {
  std::string bytes;
  std::vector<sys::UniqueFd> descriptors;
};

enum class Received {
  kPacket,
  kNothing,
  // From here on it is to be closed, with what is still in it.
  kGone,     // the other side closed, or sent an empty packet
  kBroken,   // longer than `max_bytes`, or with more descriptors than fit
  kStarved,  // it brings descriptors, of which this process may open no more
};
Received ReceivePacket(int fd, Packet& packet, size_t max_bytes, size_t max_descriptors);

enum class Sent {
  kSent,
  kFull,   // the other side has not read enough yet: the socket tells when it is writable
  kLater,  // the kernel has no room for it, and no event tells when it has: try again in a moment
  kGone,
};
Sent SendPacket(int fd, std::span<const char> bytes, std::span<const int> descriptors);

// A listening socket at `path` with this mode; takes over the path from an agent that is no more.
absl::StatusOr<sys::UniqueFd> ListenPackets(const std::string& path, int type, mode_t mode);
// kUnavailable when nobody listens there.
absl::StatusOr<sys::UniqueFd> ConnectUnix(const std::string& path, int type);

}  // namespace heterok8s::heterosock::agent
