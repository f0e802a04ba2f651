// Is this packet a message? The only code of either side that looks at bytes of the other before they are trusted.
//
// Parse<T>() copies the message out, so what was checked cannot change. It checks everything the format promises and
// nothing about meaning: ids and reasons are the receiver's business.
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

constexpr bool IsValid(const Hello& m, size_t descriptors) {
  return descriptors == 0 && m.version_min <= m.version_max && m.version_min != 0;
}
constexpr bool IsValid(const Offer& m, size_t descriptors) { return descriptors == 1 && m.offer_id != 0; }
constexpr bool IsValid(const Withdraw& m, size_t descriptors) { return descriptors == 0 && m.offer_id != 0; }
constexpr bool IsValid(const Release& m, size_t descriptors) {
  return descriptors == 0 && m.channel_id != 0 && m.reserved == 0;
}
constexpr bool IsValid(const Resume& m, size_t descriptors) {
  return descriptors == 2 && m.channel_id != 0 && m.epoch != 0 && m.side <= 1 && AllZero(m.reserved);
}
constexpr bool IsValid(const HandBack& m, size_t descriptors) { return descriptors == 0 && m.channel_id != 0; }
constexpr bool IsValid(const Welcome& m, size_t descriptors) {
  return descriptors == 0 && m.reserved == 0 && m.epoch != 0;
}
constexpr bool IsValid(const Refused& m, size_t descriptors) { return descriptors == 0 && m.reserved == 0; }
constexpr bool IsValid(const Declined& m, size_t descriptors) { return descriptors == 0 && m.offer_id != 0; }
constexpr bool IsValid(const Fence& m, size_t descriptors) { return descriptors == 0 && m.reserved == 0; }
constexpr bool IsValid(const Paired& m, size_t descriptors) {
  return descriptors == 3 && m.offer_id != 0 && m.channel_id != 0 && m.epoch != 0 && m.nonce != 0 && m.side <= 1 &&
         m.memory_bytes != 0 && m.memory_offset + m.memory_bytes > m.memory_offset && AllZero(m.reserved);
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
