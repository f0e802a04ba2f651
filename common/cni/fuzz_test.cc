#include <catch2/catch.hpp>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

const std::vector<std::string> kSeeds = {
    R"({"cniVersion":"1.1.0","name":"n","type":"t","mtu":1500,"ipam":{"type":"heterok8s"},"dns":{"search":["a"]}})",
    R"({"cniVersion":"1.1.0","name":"n","runtimeConfig":{"portMappings":[{"hostPort":80,"containerPort":80,)"
    R"("protocol":"tcp","hostIP":"::1"}],"bandwidth":{"ingressRate":1,"ingressBurst":1},"ips":["10.0.0.1/8"],)"
    R"("mac":"02:00:00:00:00:01"},"args":{"cni":{"ips":["fd00::1"]}}})",
    R"({"cniVersion":"0.4.0","name":"n","prevResult":{"interfaces":[{"name":"a","sandbox":"b"}],)"
    R"("ips":[{"version":"4","interface":0,"address":"10.0.0.2/24","gateway":"10.0.0.1"}],)"
    R"("routes":[{"dst":"::/0","gw":"fe80::1"}],"dns":{}}})",
    R"({"cniVersion":"1.1.0","name":"n","cni.dev/valid-attachments":[{"containerID":"a","ifname":"b"}]})",
    R"({"version":1,"environment":{"CNI_COMMAND":"ADD"},"stdin":"{}"})",
    R"({"exit":1,"stdout":"x"})",
    "IgnoreUnknown=1;K8S_POD_NAME=a;IP=10.0.0.1",
};

std::string Mutate(std::string text, std::mt19937& random) {
  static const std::vector<std::string> kTokens = {
      "null", "-1", "1e999", "[",          "{",  "]", "}", "\"", "\\u0000", "\\ud800", "18446744073709551616",
      ":",    ",",  "\xff",  "[[[[[[[[[[", "0.5"};
  for (int n = 1 + random() % 6; n > 0; --n) {
    size_t at = text.empty() ? 0 : random() % text.size();
    switch (random() % 5) {
      case 0:
        if (!text.empty()) text[at] = static_cast<char>(random());
        break;
      case 1:
        text.erase(at, random() % 8);
        break;
      case 2:
        text.insert(at, kTokens[random() % kTokens.size()]);
        break;
      case 3:
        text.insert(at, text.substr(random() % (text.size() + 1), random() % 32));
        break;
      case 4:
        text.replace(at, std::min<size_t>(text.size() - at, 1 + random() % 6), kTokens[random() % kTokens.size()]);
        break;
    }
  }
  return text;
}

TEST_CASE("no mutation of a real input crashes a parser") {
  std::mt19937 random(20240607);
  for (int round = 0; round < 20000; ++round) {
    std::string text = Mutate(kSeeds[round % kSeeds.size()], random);
    LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  }
}

}  // namespace
