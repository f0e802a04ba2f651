// heterod.yaml. See tools/fuzz.
#include <cstdlib>

#include "node-agent/config/heterod_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  auto config = heterok8s::config::ParseHeterodConfig(text, "fuzz.yaml");
  if (!config.ok() && config.status().message().find("fuzz.yaml") == std::string_view::npos) abort();
  return 0;
}
