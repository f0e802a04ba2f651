// What the other PU's heterod says, as values: all messages that can be wrong. See tools/fuzz.
#include <cstdlib>

#include "node-agent/peer/convert.h"

namespace {

using namespace heterok8s;
using namespace heterok8s::peer;

// Bytes that are a message become a value or an error; a value becomes a message that becomes the same value.
template <typename Message>
void RoundTrip(const std::string& bytes) {
  Message message;
  if (!message.ParseFromString(bytes)) return;
  auto value = FromProto(message);
  if (!value.ok()) {
    if (value.status().code() != absl::StatusCode::kInvalidArgument) abort();
    return;
  }
  const Message once = ToProto(*value);
  auto again = FromProto(once);
  if (!again.ok() || ToProto(*again).SerializeAsString() != once.SerializeAsString()) abort();
}

void CheckPrepare(const std::string& bytes) {
  v1::PrepareRequest message;
  if (!message.ParseFromString(bytes)) return;
  auto request = FromProto(message);
  if (!request.ok()) return;
  for (const podnet::PortRange& range : {request->host_ephemeral, request->dpu_ephemeral}) {
    if (range.first == 0 || range.first > range.last) abort();
  }
  for (const podnet::HostPort& port : request->host_ports) {
    if (port.host_port == 0 || port.container_port == 0 || !port.host_ip) abort();
  }
  if (request->generation != message.generation() || request->pod_key != message.pod_key()) abort();
}

}  // namespace

// The first byte says which message.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  switch (data[0] % 4) {
    case 0:
      RoundTrip<v1::PrepareRequest>(bytes);
      CheckPrepare(bytes);
      break;
    case 1:
      RoundTrip<v1::ReserveReply>(bytes);
      break;
    case 2:
      RoundTrip<v1::PortKey>(bytes);
      break;
    case 3: {
      v1::SyncRequest message;
      if (message.ParseFromString(bytes) && FromProto(message).pods.size() != static_cast<size_t>(message.pods_size()))
        abort();
      break;
    }
  }
  return 0;
}
