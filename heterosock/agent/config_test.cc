#include "heterosock/agent/config.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "common/testing/matchers.h"
#include "heterosock/agent/mechanisms.h"
#include "heterosock/protocol/messages.h"

namespace heterok8s::heterosock::agent {
namespace {

using testing::Says;

TEST_CASE("an empty file gives the defaults") {
  auto config = ParseConfig(GENERATE("", "\n", "# Nothing is set here.\n", "---\n", "{}"), "f");

  REQUIRE_OK(config);
  CHECK(config->agent.socket == protocol::kDefaultAgentPath);
  // Pods mount its folder: nothing else may be in it.
  const auto folder = std::filesystem::path(config->agent.socket).parent_path();
  CHECK(std::filesystem::path(config->agent.admin).parent_path() != folder);
  CHECK(std::filesystem::path(config->bpffs).parent_path() != folder);
  CHECK(config->agent.ring_bytes == 1 << 20);
  CHECK(config->tokens == TokenMode::kAuto);
  CHECK_FALSE(config->agent.believe_addresses);
}

TEST_CASE("every key is read") {
  auto config = ParseConfig(R"(
socket: /a/s
admin: /a/admin
other_pu: {connect: /a/pu}
offer_deadline_ms: 50
ring_kib: 128
limits: {offers_per_process: 1, channels_per_process: 2, processes_per_domain: 3, channels_per_domain: 4, mib_per_domain: 5}
tokens: {mode: "off", addresses: any-netns, cgroup: /sys/fs/cgroup/x, bpffs: /a/bpf}
policy: {groups: ["a = pod:1", "b = pod:2"], chains: ["a b"]}
metrics: {listen: "127.0.0.1:0"}
log: {level: debug}
)",
                            "f");
  REQUIRE_OK(config);
  CHECK(config->agent.pu_connect == "/a/pu");
  CHECK(config->agent.offer_deadline == std::chrono::milliseconds(50));
  CHECK(config->agent.credits.bytes == 5u << 20);
  CHECK(config->agent.max_processes == 3);
  CHECK(config->tokens == TokenMode::kOff);
  CHECK(config->agent.believe_addresses);
  CHECK(config->agent.policy.Allows({.pod_uid = "1"}, {.pod_uid = "2"}));
}

TEST_CASE("what is wrong is named") {
  CHECK_THAT(ParseConfig("{sokcet: /a}", "f").status(), Says("unknown key 'sokcet'"));
  CHECK_THAT(ParseConfig("{socket: a}", "f").status(), Says("no absolute path"));
  CHECK_THAT(ParseConfig("{ring_kib: 100}", "f").status(), Says("no power of two"));
  CHECK_THAT(ParseConfig("{other_pu: {listen: /a, connect: /b}}", "f").status(), Says("listens, the other"));
  CHECK_THAT(ParseConfig("{policy: {chains: [\"a b\"]}}", "f").status(), Says("no group is named 'a'"));
}

TEST_CASE("every mistake is named, each once") {
  const absl::Status status =
      ParseConfig("{sokcet: /a, admin: b, ring_kib: much, log: {level: x, file: /c}}", "f").status();

  CHECK_THAT(status,
             Says("f: admin: 'b' is no absolute path; ring_kib: is no number from 4 to 65536; log.level: 'x' is "
                  "none of trace, debug, info, warn, error; unknown key 'log.file'; unknown key 'sokcet'"));
}

TEST_CASE("of very many mistakes the first are named, and the others counted") {
  std::string text;
  for (int i = 100; i < 200; ++i) text += fmt::format("key{}: 1\n", i);

  const absl::Status status = ParseConfig(text, "f").status();

  CHECK_THAT(status, Says("unknown key 'key119'; and 80 more"));
}

TEST_CASE("a file that is not there is an error that says what to do") {
  const absl::Status status = LoadConfig("/nowhere/heterosockd.yaml").status();

  CHECK(absl::IsNotFound(status));
  CHECK_THAT(status, Says("'/nowhere/heterosockd.yaml'"));
  CHECK_THAT(status, Says("an empty file there gives the defaults"));
}

TEST_CASE("each mechanism is a line with a reason") {
  for (const Mechanism& line : ProbeMechanisms()) {
    CHECK_FALSE(line.name.empty());
    CHECK_FALSE(line.active.empty());
    CHECK_FALSE(line.detail.empty());
  }
  CHECK(DescribeMatching(false, "because").detail.find("because") != std::string::npos);
}

}  // namespace
}  // namespace heterok8s::heterosock::agent
