#include "node-agent/pu/owner_tag.h"

#include <catch2/catch.hpp>
#include <set>

#include "common/testing/matchers.h"

namespace heterok8s::pu {
namespace {

using testing::HasCode;

TEST_CASE("an owner tag survives its text form") {
  auto tag =
      GENERATE(OwnerTag{"demo", "6f1c0f6e-5b0e-4b71-9d3c-0f9c5d1f3a11", "eth0"}, OwnerTag{"a", "ns/pod:1", "net1"});

  auto back = OwnerTag::FromAlias(tag.ToAlias());

  REQUIRE_OK(back);
  CHECK(*back == tag);
}

TEST_CASE("what is not an owner tag is refused") {
  auto text = GENERATE("", "eth0", "heterok8s:", "heterok8s:demo", "heterok8s:demo:eth0", "heterok8s::pod:eth0",
                       "heterok8s:demo::eth0", "heterok8s:demo:pod:", "calico:demo:pod:eth0");

  CHECK_THAT(OwnerTag::FromAlias(text).status(), HasCode(absl::StatusCode::kInvalidArgument));
}

TEST_CASE("names fit the kernel, repeat, and differ by tag and role") {
  std::set<std::string> names, macs;
  for (int pod = 0; pod < 1000; ++pod) {
    OwnerTag tag{"demo", "pod-" + std::to_string(pod), "eth0"};
    CHECK(InterfaceName(tag, 'u') == InterfaceName(tag, 'u'));
    CHECK(InterfaceName(tag, 'u').size() == 14);
    names.insert(InterfaceName(tag, 'u'));
    names.insert(InterfaceName(tag, 'x'));
    macs.insert(LinkMac(tag, Side::kHost));
    macs.insert(LinkMac(tag, Side::kDpu));
  }
  CHECK(names.size() == 2000);
  CHECK(macs.size() == 2000);
}

TEST_CASE("a derived address is locally administered and unicast") {
  std::string mac = LinkMac({"demo", "pod", "eth0"}, Side::kHost);

  REQUIRE(mac.size() == 17);
  int first = std::stoi(mac.substr(0, 2), nullptr, 16);
  CHECK((first & 0x03) == 0x02);
}

}  // namespace
}  // namespace heterok8s::pu
