// The "ipam" part of a network configuration, and a resolv.conf. See tools/fuzz.
#include <cstdlib>

#include "node-agent/ipam/ipam_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace heterok8s;
  const std::string text(reinterpret_cast<const char*>(data), size);

  cni::NetworkConfig config;
  config.raw = nlohmann::json::parse(text, nullptr, false);
  if (config.raw.is_object()) {
    config.ipam = config.raw.value("ipam", nlohmann::json());
    if (config.ipam.is_object()) config.ipam.erase("resolvConf");  // no file that the input names is opened
    if (auto parsed = ipam::ParseIpamConfig(config); parsed.ok()) {
      for (const ipam::RangeSet& set : parsed->sets) {
        if (set.empty()) abort();
        for (const ipam::Range& range : set) {
          if (range.last < range.first || !range.subnet.Contains(range.first) || !range.subnet.Contains(range.last))
            abort();
          if (range.Holds(range.gateway) || range.Holds(range.subnet.address)) abort();
        }
      }
    } else if (cni::CodeOf(parsed.status()) == 0) {
      abort();
    }
  }

  const cni::Dns dns = ipam::ParseResolvConf(text);
  for (const auto* words : {&dns.nameservers, &dns.search, &dns.options}) {
    for (const std::string& word : *words) {
      if (word.empty() || word.find_first_of(" \t\n#;") != std::string::npos) abort();
    }
  }
  return 0;
}
