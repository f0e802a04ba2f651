#include "heterosock/ring/ring.h"

#include <catch2/catch.hpp>
#include <random>
#include <vector>

#include "heterosock/layout/channel.h"

namespace heterok8s::heterosock::ring {
namespace {

TEST_CASE("bytes in use are the distance of the offsets, also where they wrap") {
  CHECK(Used(0, 0, 4096) == 0);
  CHECK(Used(4096, 0, 4096) == 4096);
  CHECK(Used(10, ~uint64_t{0} - 5, 4096) == 16);
}

TEST_CASE("a receiver ahead of the sender, or a ring behind it, is impossible") {
  CHECK(Used(0, 1, 4096) == kImpossible);
  CHECK(Used(4097, 0, 4096) == kImpossible);
  CHECK(Used(~uint64_t{0}, 0, 4096) == kImpossible);
}

TEST_CASE("a ring size must be a power of two within its bounds") {
  CHECK(ValidSize(4096, 1 << 20, 4096));
  CHECK(ValidSize(1 << 20, 1 << 20, 4096));
  CHECK_FALSE(ValidSize(0, 1 << 20, 4096));
  CHECK_FALSE(ValidSize(4095, 1 << 20, 4096));
  CHECK_FALSE(ValidSize(12288, 1 << 20, 4096));
  CHECK_FALSE(ValidSize(2 << 20, 1 << 20, 4096));
}

TEST_CASE("what is copied in comes out, wherever the ring's end falls") {
  constexpr size_t kSize = 64;
  std::vector<uint8_t> memory(kSize);
  for (size_t at = 0; at < kSize; ++at) {
    for (size_t n = 1; n <= kSize; ++n) {  // whoever has nothing to copy does not call
      std::vector<uint8_t> sent(n), received(n);
      for (size_t i = 0; i < n; ++i) sent[i] = static_cast<uint8_t>(at + 3 * i);

      CopyIn(memory.data(), kSize, at, sent.data(), n);
      CopyOut(memory.data(), kSize, at, received.data(), n);

      REQUIRE(sent == received);
    }
  }
}

TEST_CASE("a header is believed only when both rings lie inside the channel and apart") {
  layout::ChannelHeader good = {};
  good.magic = layout::kChannelMagic;
  good.version = layout::kChannelVersion;
  good.ring_bytes = 128 << 10;
  good.ring_offset[0] = layout::RingOffset(0, good.ring_bytes);
  good.ring_offset[1] = layout::RingOffset(1, good.ring_bytes);
  good.epoch = good.nonce = 1;
  const uint64_t bytes = layout::ChannelBytes(good.ring_bytes);
  const auto with = [&](auto&& change) {
    layout::ChannelHeader header = good;
    change(header);
    return layout::ValidHeader(header, bytes);
  };

  CHECK(layout::ValidHeader(good, bytes));
  CHECK_FALSE(layout::ValidHeader(good, bytes - 1));
  CHECK_FALSE(with([](auto& h) { h.magic ^= 1; }));
  CHECK_FALSE(with([](auto& h) { h.version = layout::kChannelVersion + 1; }));
  CHECK_FALSE(with([](auto& h) { h.ring_bytes = 3 << 16; }));
  CHECK_FALSE(with([](auto& h) { h.ring_bytes = 1u << 31; }));
  CHECK_FALSE(with([](auto& h) { h.ring_offset[1] = h.ring_offset[0]; }));
  CHECK_FALSE(with([](auto& h) { h.ring_offset[0] = 0; }));
  CHECK_FALSE(with([](auto& h) { h.ring_offset[1] = ~uint64_t{0} - 65535; }));
  CHECK_FALSE(with([](auto& h) { h.epoch = 0; }));
}

TEST_CASE("random headers never describe memory outside the channel") {
  std::mt19937_64 random(20260101);
  const uint64_t bytes = 1 << 20;
  for (int i = 0; i < 200000; ++i) {
    layout::ChannelHeader header = {};
    header.magic = layout::kChannelMagic;
    header.version = layout::kChannelVersion;
    header.epoch = header.nonce = 1;
    header.ring_bytes = 1u << (random() % 32);
    header.ring_offset[0] = (random() % 32) << 16;
    header.ring_offset[1] = random() % 2 != 0 ? random() : (random() % 32) << 16;

    if (!layout::ValidHeader(header, bytes)) continue;

    for (const uint64_t offset : header.ring_offset) {
      REQUIRE(offset >= sizeof(layout::ChannelPage));
      REQUIRE(offset + header.ring_bytes <= bytes);
    }
  }
}

}  // namespace
}  // namespace heterok8s::heterosock::ring
