// What a client of the streaming server sends first, and what a runtime calls its URL. See tools/fuzz.
#include <cstdint>
#include <cstdlib>

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
  return 0;
}
