#include "node-agent/cri/wire.h"

#include <cstdint>

namespace heterok8s::cri {
namespace {

bool ReadVarint(std::string_view* in, uint64_t* value) {
  *value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (in->empty()) return false;
    auto byte = static_cast<uint8_t>(in->front());
    in->remove_prefix(1);
    *value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if ((byte & 0x80) == 0) return true;
  }
  return false;
}

bool Skip(std::string_view* in, uint64_t bytes) {
  if (bytes > in->size()) return false;
  in->remove_prefix(bytes);
  return true;
}

}  // namespace

absl::StatusOr<std::string> FirstField(std::string_view message) {
  const absl::Status broken = absl::InvalidArgumentError("the request is not a protobuf message");
  std::string first;
  while (!message.empty()) {
    uint64_t tag = 0, length = 0;
    if (!ReadVarint(&message, &tag) || tag >> 3 == 0 || tag >> 3 > 0x1fffffff) return broken;
    switch (tag & 7) {
      case 0:
        if (!ReadVarint(&message, &length)) return broken;
        break;
      case 1:
        if (!Skip(&message, 8)) return broken;
        break;
      case 2:
        if (!ReadVarint(&message, &length) || length > message.size()) return broken;
        if (tag >> 3 == 1) first = message.substr(0, length);
        message.remove_prefix(length);
        break;
      case 5:
        if (!Skip(&message, 4)) return broken;
        break;
      default:  // groups: no message of CRI has any
        return broken;
    }
  }
  return first;
}

}  // namespace heterok8s::cri
