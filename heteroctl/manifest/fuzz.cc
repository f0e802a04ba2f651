// A manifest comes from whoever wrote it: nothing may throw past ParseManifest, hang or overflow. See tools/fuzz.
#include <cstdint>
#include <cstdlib>

#include "heteroctl/manifest/manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto manifest =
      heterok8s::manifest::ParseManifest(std::string(reinterpret_cast<const char*>(data), size), "fuzz.yaml");
  // A refusal names the file; a Pod that is accepted has something to run.
  if (!manifest.ok() && heterok8s::Message(manifest.status()).find("fuzz.yaml") == std::string::npos) abort();
  if (manifest.ok() && manifest->pod.containers.empty()) abort();
  return 0;
}
