#include "heterosock/protocol/parse.h"

#include <catch2/catch.hpp>
#include <random>
#include <set>
#include <string>

#include "heterosock/protocol/fuzz.h"
#include "heterosock/protocol/reasons.h"

namespace heterok8s::heterosock::protocol {
namespace {

Paired GoodPaired() {
  Paired paired = Make<Paired>();
  paired.offer_id = 7;
  paired.channel_id = paired.epoch = paired.nonce = 9;
  paired.memory_bytes = 1 << 18;
  return paired;
}

TEST_CASE("a message is read back as it was written") {
  Offer offer = Make<Offer>();
  offer.offer_id = 42;

  Offer read;
  REQUIRE(Parse(&offer, sizeof offer, 1, read));
  CHECK(read.offer_id == 42);
  CHECK(TypeOf(&offer, sizeof offer) == static_cast<uint16_t>(Type::kOffer));
}

TEST_CASE("a message of the wrong size, type or number of descriptors is none") {
  Offer offer = Make<Offer>();
  offer.offer_id = 42;
  Offer read;
  Withdraw other;

  CHECK_FALSE(Parse(&offer, sizeof offer - 1, 1, read));
  CHECK_FALSE(Parse(&offer, sizeof offer, 0, read));
  CHECK_FALSE(Parse(&offer, sizeof offer, 2, read));
  CHECK_FALSE(Parse(&offer, sizeof offer, 0, other));
}

TEST_CASE("fields that are reserved must be zero") {
  Fence fence = Make<Fence>();
  Fence read;
  CHECK(Parse(&fence, sizeof fence, 0, read));
  fence.header.reserved = 1;
  CHECK_FALSE(Parse(&fence, sizeof fence, 0, read));
  fence = Make<Fence>();
  fence.reserved = 1;
  CHECK_FALSE(Parse(&fence, sizeof fence, 0, read));
}

TEST_CASE("PAIRED describes memory that does not wrap around") {
  Paired read;
  Paired paired = GoodPaired();
  CHECK(Parse(&paired, sizeof paired, 3, read));
  paired.memory_offset = ~uint64_t{0} - 4096;
  CHECK_FALSE(Parse(&paired, sizeof paired, 3, read));
  paired = GoodPaired();
  paired.side = 2;
  CHECK_FALSE(Parse(&paired, sizeof paired, 3, read));
}

TEST_CASE("every reason has a text of its own") {
  std::set<std::string> texts;
  int named = 0;
  for (int number = 0; number < 256; ++number) {
    const std::string text = ReasonText(static_cast<Reason>(number));
    if (text == "unknown") continue;
    ++named;
    texts.insert(text);
  }
  CHECK(named > 30);
  CHECK(texts.size() == static_cast<size_t>(named));
}

TEST_CASE("the parser survives seeded mutations") {
  std::mt19937 random(1);
  const Paired seed = GoodPaired();
  for (int round = 0; round < 20000; ++round) {
    uint8_t bytes[kMaxMessageBytes + 8] = {};
    __builtin_memcpy(bytes, &seed, sizeof seed);
    for (int flips = static_cast<int>(random() % 6); flips >= 0; --flips) bytes[random() % sizeof bytes] = random();
    LLVMFuzzerTestOneInput(bytes, random() % sizeof bytes);
  }
}

}  // namespace
}  // namespace heterok8s::heterosock::protocol
