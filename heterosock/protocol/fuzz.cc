// What a stranger can send to either side: a packet with some descriptors. The first byte is their number.
// A message that is accepted must be as the format says, whatever its fields are.
#include "heterosock/protocol/fuzz.h"

#include <cstdlib>

#include "heterosock/protocol/parse.h"

namespace {

using namespace heterok8s::heterosock::protocol;

template <typename T>
bool Accepts(const uint8_t* packet, size_t bytes, size_t descriptors) {
  T message;
  if (!Parse(packet, bytes, descriptors, message)) return false;
  if (message.header.size != bytes || descriptors > kMaxDescriptors) abort();
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const uint8_t* packet = data + 1;
  const size_t bytes = size - 1, descriptors = data[0] % (kMaxDescriptors + 1);
  const int accepted = Accepts<Hello>(packet, bytes, descriptors) + Accepts<Offer>(packet, bytes, descriptors) +
                       Accepts<Withdraw>(packet, bytes, descriptors) + Accepts<Release>(packet, bytes, descriptors) +
                       Accepts<Resume>(packet, bytes, descriptors) + Accepts<Welcome>(packet, bytes, descriptors) +
                       Accepts<Refused>(packet, bytes, descriptors) + Accepts<Paired>(packet, bytes, descriptors) +
                       Accepts<Declined>(packet, bytes, descriptors) + Accepts<Fence>(packet, bytes, descriptors) +
                       Accepts<HandBack>(packet, bytes, descriptors);
  if (accepted > 1) abort();  // a packet is one message
  if (accepted == 1 && TypeOf(packet, bytes) == 0) abort();
  return 0;
}
