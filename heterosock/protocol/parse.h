// Is this packet a message? The only code of either side that looks at bytes of the other before they are trusted.
//
// Parse<T>() copies the message out, so what was checked cannot change. It checks everything the format promises and
// nothing about meaning: ids, reasons and flags are the receiver's business, except that unknown flags are malformed.
// Usable without libstdc++ and without allocation. Threading: pure functions. Errors: false.
//
//   protocol::Offer offer;
//   if (!protocol::Parse(packet, bytes, descriptors, offer)) return Drop(connection);
#pragma once

#include <cstddef>
#include <cstdint>

#include "heterosock/protocol/messages.h"

namespace heterok8s::heterosock::protocol {
namespace internal {

template <size_t N>
constexpr bool AllZero(const uint8_t (&bytes)[N]) {
  for (uint8_t byte : bytes) {
    if (byte != 0) return false;
  }
  return true;
}

constexpr size_t CountDescriptors(const Paired& m) {
  size_t count = 0;
  while (count < sizeof m.descriptors && m.descriptors[count] != 0) ++count;
  return count;
}

constexpr bool IsValid(const Hello& m, size_t descriptors) {
  return descriptors == 0 && m.version_min <= m.version_max && m.version_min != 0;
}
constexpr bool IsValid(const Offer& m, size_t descriptors) {
  const bool has_bell = (m.flags & kOfferHasBell) != 0;
  return m.offer_id != 0 && (m.flags & ~uint32_t{kOfferHasBell}) == 0 && (has_bell || m.bell_id == 0) &&
         descriptors == (has_bell ? 2u : 1u);
}
constexpr bool IsValid(const Withdraw& m, size_t descriptors) { return descriptors == 0 && m.offer_id != 0; }
constexpr bool IsValid(const Release& m, size_t descriptors) {
  return descriptors == 0 && m.offer_id != 0 && m.reserved[0] == 0 && m.reserved[1] == 0 && m.reserved[2] == 0;
}
constexpr bool IsValid(const Resume& m, size_t descriptors) {
  return descriptors == 2 && m.offer_id != 0 && m.side <= 1 && AllZero(m.reserved);
}
constexpr bool IsValid(const Welcome& m, size_t descriptors) {
  return descriptors == 0 && m.reserved == 0 && m.epoch != 0;
}
constexpr bool IsValid(const Refused& m, size_t descriptors) {
  return descriptors == 0 && m.reserved == 0 && m.reserved2 == 0;
}
constexpr bool IsValid(const Declined& m, size_t descriptors) {
  return descriptors == 0 && m.offer_id != 0 && m.reserved == 0;
}
constexpr bool IsValid(const Fence& m, size_t descriptors) {
  return descriptors == 0 && m.reserved == 0 && m.reserved2 == 0;
}
constexpr bool IsValid(const Paired& m, size_t descriptors) {
  if (m.offer_id == 0 || m.side > 1 || !AllZero(m.reserved) || descriptors != CountDescriptors(m)) return false;
  uint32_t seen = 0;
  for (size_t i = 0; i < sizeof m.descriptors; ++i) {
    const uint8_t kind = m.descriptors[i];
    if (kind > static_cast<uint8_t>(Descriptor::kArenaTheirs)) return false;
    if (i >= descriptors ? kind != 0 : (seen & (1u << kind)) != 0) return false;  // a gap, or the same kind twice
    seen |= 1u << kind;
  }
  const uint32_t needed = 1u << static_cast<uint8_t>(Descriptor::kMemoryMine) |
                          1u << static_cast<uint8_t>(Descriptor::kMemoryTheirs) |
                          1u << static_cast<uint8_t>(Descriptor::kBellTheirs);
  return (seen & needed) == needed && m.memory_bytes != 0;
}

}  // namespace internal

// The type of a packet whose header is right, else 0.
inline uint16_t TypeOf(const void* packet, size_t bytes) {
  Header header;
  if (bytes < sizeof header || bytes > kMaxMessageBytes) return 0;
  __builtin_memcpy(&header, packet, sizeof header);
  return header.size == bytes && header.reserved == 0 ? header.type : 0;
}

template <typename T>
bool Parse(const void* packet, size_t bytes, size_t descriptors, T& message) {
  if (bytes != sizeof(T) || TypeOf(packet, bytes) != static_cast<uint16_t>(T::kType)) return false;
  __builtin_memcpy(&message, packet, sizeof(T));
  return internal::IsValid(message, descriptors);
}

}  // namespace heterok8s::heterosock::protocol
