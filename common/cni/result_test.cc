#include <catch2/catch.hpp>

#include "common/cni/types.h"
#include "common/testing/matchers.h"

namespace heterok8s::cni {
namespace {

using testing::HasCode;
using testing::Says;

Result Sample() {
  Result result;
  result.interfaces = {{.name = "veth1", .mac = "02:00:00:00:00:01", .mtu = 1500},
                       {.name = "eth0", .sandbox = "/run/netns/x", .mtu = 1500, .pci_id = "0000:01:00.1"}};
  result.ips = {
      {.address = *IpPrefix::Parse("10.88.0.5/32"), .gateway = *IpAddress::Parse("169.254.1.1"), .interface = 1},
      {.address = *IpPrefix::Parse("fd00:88::5/128"), .interface = 1}};
  result.routes = {{.dst = *IpPrefix::Parse("0.0.0.0/0"), .gw = *IpAddress::Parse("169.254.1.1"), .mtu = 1400}};
  result.dns.nameservers = {"10.0.0.10"};
  return result;
}

TEST_CASE("a result is written in the shape of its version") {
  for (const char* version : kSupportedVersions) {
    INFO(version);
    nlohmann::json json = ToJson(Sample(), version);

    CHECK(json["cniVersion"] == version);
    CHECK(json["ips"][0].contains("version") == (CompareVersions(version, "1.0.0") < 0));
    CHECK(json["interfaces"][0].contains("mtu") == (CompareVersions(version, "1.1.0") >= 0));
    CHECK(json["interfaces"][1].contains("pciID") == (CompareVersions(version, "1.1.0") >= 0));
    CHECK(json["routes"][0].contains("mtu") == (CompareVersions(version, "1.1.0") >= 0));
    CHECK_FALSE(json["interfaces"][0].contains("sandbox"));
    CHECK(json["ips"][0]["interface"] == 1);
    CHECK(json["ips"][1]["address"] == "fd00:88::5/128");
    CHECK(json["dns"]["nameservers"][0] == "10.0.0.10");
  }
}

TEST_CASE("a written result is read back, in every version") {
  for (const char* version : kSupportedVersions) {
    INFO(version);
    nlohmann::json json = ToJson(Sample(), version);

    absl::StatusOr<Result> read = ParseResult(json);

    REQUIRE_OK(read);
    CHECK(ToJson(*read, version) == json);
  }
}

TEST_CASE("an address that points at no interface is refused") {
  nlohmann::json json = ToJson(Sample(), "1.0.0");
  json["ips"][0]["interface"] = 2;

  CHECK_THAT(ParseResult(json).status(), Says("'ips[0].interface' is no index"));
}

TEST_CASE("a chained result keeps what was there and shifts our indices") {
  Result amended = Amend(Sample(), Sample());

  REQUIRE(amended.interfaces.size() == 4);
  REQUIRE(amended.ips.size() == 4);
  CHECK(*amended.ips[0].interface == 1);
  CHECK(*amended.ips[2].interface == 3);
  CHECK(amended.dns.nameservers.size() == 1);
}

TEST_CASE("an error keeps its CNI code and details through layers") {
  absl::Status status = MakeError(kAddressExhausted, "no free address in 10.0.0.0/30", "two are in use");

  nlohmann::json json = nlohmann::json::parse(ErrorJson(Annotate(status, "ADD pod a/b"), "0.4.0"));

  CHECK(json["cniVersion"] == "0.4.0");
  CHECK(json["code"] == 101);
  CHECK(json["msg"] == "ADD pod a/b: no free address in 10.0.0.0/30");
  CHECK(json["details"] == "two are in use");
  CHECK_THAT(status, HasCode(absl::StatusCode::kResourceExhausted));
}

TEST_CASE("a status without a CNI code gets the nearest one") {
  CHECK(CodeOf(absl::UnavailableError("x")) == kTryAgainLater);
  CHECK(CodeOf(absl::DeadlineExceededError("x")) == kTryAgainLater);
  CHECK(CodeOf(absl::InvalidArgumentError("x")) == kInvalidConfig);
  CHECK(CodeOf(absl::NotFoundError("x")) == kInternal);
}

TEST_CASE("an error about bytes that are no text is still JSON, in a version that exists") {
  nlohmann::json json = nlohmann::json::parse(ErrorJson(MakeError(kInvalidConfig, "bad \xff"), "7.0"));

  CHECK(json["cniVersion"] == kLatestVersion);
  CHECK(json["code"] == kInvalidConfig);
}

TEST_CASE("versions compare by number") {
  CHECK(CompareVersions("0.10.0", "0.9.9") > 0);
  CHECK(CompareVersions("1.0.0", "1.0.0") == 0);
  CHECK(CompareVersions("banana", "0.1.0") < 0);
  CHECK(CompareVersions("1.0", "0.1.0") < 0);
}

}  // namespace
}  // namespace heterok8s::cni
