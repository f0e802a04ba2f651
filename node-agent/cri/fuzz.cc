// The field by which a CRI request is routed, of bytes that nobody parsed yet. See tools/fuzz.
#include <cstdint>
#include <cstdlib>

#include "node-agent/cri/wire.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view message(reinterpret_cast<const char*>(data), size);
  auto first = heterok8s::cri::FirstField(message);
  if (!first.ok()) return 0;
  if (first->size() > size) abort();
  // As protobuf does: what is appended to a message counts last.
  const std::string more = std::string(message) + "\x0a\x01z";
  auto last = heterok8s::cri::FirstField(more);
  if (!last.ok() || *last != "z") abort();
  return 0;
}
