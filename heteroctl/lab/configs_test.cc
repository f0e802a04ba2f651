#include "heteroctl/lab/configs.h"

#include <fmt/format.h>
#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include "common/testing/matchers.h"

namespace heterok8s::lab {
namespace {

TEST_CASE("the two agents are told of each other's address and only the host of the DPU's namespace") {
  const Layout layout{"demo"};

  const YAML::Node host = YAML::Load(HeterodYaml(layout, Place::kHost, {}));
  const YAML::Node dpu = YAML::Load(HeterodYaml(layout, Place::kDpu, {}));

  CHECK(host["listen"].as<std::string>() == dpu["peer"]["address"].as<std::string>());
  CHECK(dpu["listen"].as<std::string>() == host["peer"]["address"].as<std::string>());
  CHECK(host["pu"]["peer_netns"].as<std::string>() == "/run/lab/dpu.netns");
  CHECK_FALSE(dpu["pu"]["peer_netns"]);
  CHECK(YAML::Load(HeterocriYaml(layout, {}))["dpu"]["address"].as<std::string>() == dpu["listen"].as<std::string>());
}

TEST_CASE("the CNI configuration is JSON with both address families") {
  const auto json = nlohmann::json::parse(CniConflist({"demo"}));

  CHECK(json["plugins"][0]["type"] == "heterok8s-cni");
  CHECK(json["plugins"][0]["ipam"]["ranges"].size() == 2);
}

TEST_CASE("the init is told the same after a trip through its file") {
  const InitSpec spec = MakeInitSpec({"demo"}, Place::kHost, {});
  const std::string path = fmt::format("/tmp/hk-init-spec-{}.json", getpid());
  FILE* file = fopen(path.c_str(), "w");
  fputs(ToJson(spec).c_str(), file);
  fclose(file);

  auto read = ReadInitSpec(path);

  REQUIRE_OK(read);
  CHECK(ToJson(*read) == ToJson(spec));
  CHECK(read->daemons.size() == 3);
  unlink(path.c_str());
}

TEST_CASE("the state folder is covered last but for /run, or the binds after it would find nothing") {
  const InitSpec spec = MakeInitSpec({"demo"}, Place::kHost, {});

  REQUIRE(spec.binds.size() >= 2);
  CHECK(spec.binds[spec.binds.size() - 2].to == "/var/lib");
  CHECK(spec.binds.back().to == "/run");
}

}  // namespace
}  // namespace heterok8s::lab
