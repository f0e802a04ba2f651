// What strangers can send: a configuration, CNI_ARGS and a frame. Link with a fuzzer that calls this entry:
//   clang++ -fsanitize=fuzzer,address ... ; ./fuzz corpus/
// Nothing may throw, overflow or disagree with itself: what we print of a request must be readable by ourselves.
#include <cstdint>
#include <cstdlib>

#include "common/cni/types.h"
#include "common/cni/wire.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace heterok8s::cni;
  std::string text(reinterpret_cast<const char*>(data), size);

  for (const char* command : {"ADD", "DEL", "CHECK", "GC", "STATUS"}) {
    auto request = ParseRequest({{"CNI_COMMAND", command},
                                 {"CNI_CONTAINERID", "c"},
                                 {"CNI_NETNS", "/run/netns/x"},
                                 {"CNI_IFNAME", "eth0"},
                                 {"CNI_ARGS", text.substr(0, 64)}},
                                text);
    if (!request.ok()) {
      if (nlohmann::json::parse(ErrorJson(request.status(), "1.0.0"), nullptr, false).is_discarded()) abort();
      if (CodeOf(request.status()) == 0) abort();
    } else if (request->config.prev_result) {
      for (const char* version : kSupportedVersions) {
        if (!ParseResult(ToJson(*request->config.prev_result, version)).ok()) abort();
      }
    }
  }

  if (auto wire = DecodeRequest(text); wire.ok()) {
    auto again = EncodeRequest(*wire);
    if (!again.ok() || !DecodeRequest(*again).ok()) abort();
  }
  (void)DecodeReply(text);
  return 0;
}
