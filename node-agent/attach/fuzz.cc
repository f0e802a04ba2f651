// What is read back: the text of a ledger's row and the tag of an interface. See tools/fuzz.
#include <cstdlib>

#include "node-agent/attach/details.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace heterok8s;
  const std::string text(reinterpret_cast<const char*>(data), size);

  if (auto details = attach::Details::Parse(text); details.ok()) {
    const std::string written = details->ToText();
    auto again = attach::Details::Parse(written);
    if (!again.ok() || again->ToText() != written) abort();
  }

  if (auto tag = pu::OwnerTag::FromAlias(text); tag.ok()) {
    if (tag->ToAlias() != text || tag->instance.empty() || tag->pod_key.empty() || tag->ifname.empty()) abort();
    if (pu::InterfaceName(*tag, 'u').size() > 15) abort();  // IFNAMSIZ - 1
  }
  return 0;
}
