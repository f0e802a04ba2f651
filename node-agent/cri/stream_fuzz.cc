// What a client of the streaming server sends first, what a runtime calls its URL, and what both say after it. See
// tools/fuzz.
#include <cstdint>
#include <cstdlib>

#include "node-agent/cri/session_status.h"
#include "node-agent/cri/stream_http.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace heterok8s::cri;
  const std::string text(reinterpret_cast<const char*>(data), size);
  if (auto request = ParseStreamRequest(text); request.ok()) {
    // Sent on to the path it came with, it is what came.
    if (ForwardedHead(*request, request->path) != text) abort();
    if (request->path.find_first_of(" \r\n") != std::string::npos) abort();
  }
  if (auto url = ParseRuntimeUrl(text); url.ok()) {
    if (url->port == 0 || url->path.empty() || url->path[0] != '/') abort();
  }
  if (text.empty()) return 0;
  SessionStatus(text).FromClient(text);
  const size_t split = static_cast<unsigned char>(text[0]);
  for (const char* head :
       {"HTTP/1.1 101 x\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n",
        "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n", ""}) {
    SessionStatus status("POST / HTTP/1.1\r\nUpgrade: SPDY/3.1\r\n\r\n");
    status.FromClient(text.substr(1, split));
    const std::string from_runtime = head + (split + 1 < size ? text.substr(split + 1) : "");
    // Nothing is changed or added before the end.
    if (from_runtime.rfind(status.FromRuntime(from_runtime), 0) != 0) abort();
    status.Ending("cut");
  }
  return 0;
}
