#include "cni/shim.h"

#include <fmt/format.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "common/cni/types.h"
#include "common/sys/unique_fd.h"
#include "common/testing/matchers.h"

namespace heterok8s::cni {
namespace {

using Environment = std::map<std::string, std::string>;

Outcome Call(const Environment& environment, const std::string& input) {
  return HandleCall(environment, [&]() -> absl::StatusOr<std::string> { return input; });
}

Environment Add(const std::string& netns) {
  return {{"CNI_COMMAND", "ADD"}, {"CNI_CONTAINERID", "c1"}, {"CNI_NETNS", netns}, {"CNI_IFNAME", "eth0"}};
}

constexpr char kConfig[] = R"({"cniVersion":"0.4.0","name":"n","type":"t","socket":"/nonexistent/hk.sock"})";

nlohmann::json Error(const Outcome& outcome) {
  CHECK(outcome.exit_code == 1);
  return nlohmann::json::parse(outcome.stdout_text);
}

TEST_CASE("without a command the plugin introduces itself to a person and succeeds") {
  Outcome outcome = Call({}, "");

  CHECK(outcome.exit_code == 0);
  CHECK(outcome.stdout_text.empty());
  CHECK_THAT(outcome.stderr_text, Catch::Contains("0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"));
}

TEST_CASE("VERSION is answered without reading stdin and without heterod") {
  Outcome outcome = HandleCall({{"CNI_COMMAND", "VERSION"}}, []() -> absl::StatusOr<std::string> {
    FAIL("stdin was read");
    return std::string();
  });

  CHECK(outcome.exit_code == 0);
  CHECK(nlohmann::json::parse(outcome.stdout_text)["supportedVersions"].size() == 5);
}

TEST_CASE("a bad call is answered with an error in the configuration's version") {
  CHECK(Error(Call({{"CNI_COMMAND", "ADD"}}, kConfig))["code"] == kInvalidEnvironment);
  CHECK(Error(Call({{"CNI_COMMAND", "ADD"}}, kConfig))["cniVersion"] == "0.4.0");
  CHECK(Error(Call({{"CNI_COMMAND", "JUMP"}}, kConfig))["code"] == kInvalidEnvironment);
  CHECK(Error(Call(Add("/x"), "{"))["code"] == kDecodingFailure);
  CHECK(Error(Call(Add("/x"), "{}"))["code"] == kInvalidConfig);
  CHECK(Error(Call(Add("/x"), R"({"name":"n","cniVersion":"7.0.0"})"))["cniVersion"] == kLatestVersion);
}

TEST_CASE("stdin that cannot be read is an I/O error") {
  Outcome outcome = HandleCall(Add("/x"), []() -> absl::StatusOr<std::string> { return absl::InternalError("EIO"); });

  CHECK(Error(outcome)["code"] == kIoFailure);
}

TEST_CASE("the plugin's own namespace is refused unless the runtime insists") {
  Environment environment = Add("/proc/self/ns/net");

  CHECK(Error(Call(environment, kConfig))["code"] == kInvalidNetns);
  environment["CNI_COMMAND"] = "DEL";
  CHECK(Error(Call(environment, kConfig))["code"] == kInvalidNetns);
  environment["CNI_COMMAND"] = "ADD";
  environment["CNI_NETNS_OVERRIDE"] = "True";
  CHECK(Error(Call(environment, kConfig))["code"] == kTryAgainLater);
}

TEST_CASE("a heterod that accepts and says nothing costs the configured time, and DEL is queued") {
  char name[] = "/tmp/hkshimXXXXXX";
  REQUIRE(mkdtemp(name) != nullptr);
  std::string folder = name;
  sockaddr_un address = {.sun_family = AF_UNIX};
  fmt::format("{}/s", folder).copy(address.sun_path, sizeof address.sun_path - 1);
  sys::UniqueFd mute(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(bind(mute.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(listen(mute.get(), 5) == 0);
  std::string config = fmt::format(
      R"({{"cniVersion":"1.1.0","name":"n","type":"t","socket":"{0}/s","queueDir":"{0}/not/made/q{1}","timeoutSeconds":1}})",
      folder, GENERATE("", "/"));
  Environment environment = Add("/x");

  CHECK(Error(Call(environment, config))["code"] == kTryAgainLater);
  environment["CNI_COMMAND"] = "DEL";
  CHECK(Call(environment, config).exit_code == 0);
  CHECK(std::filesystem::exists(folder + "/not/made/q/n@c1@eth0.del"));
  CHECK(std::filesystem::status(folder + "/not/made/q").permissions() == std::filesystem::perms::owner_all);
  std::filesystem::remove_all(folder);
}

TEST_CASE("a DEL that can be neither carried out nor queued fails, so that the runtime tries again") {
  Environment environment = Add("/x");
  environment["CNI_COMMAND"] = "DEL";

  Outcome outcome =
      Call(environment, R"({"cniVersion":"1.0.0","name":"n","socket":"/nonexistent/s","queueDir":"/dev/null/q"})");

  CHECK(Error(outcome)["code"] == kTryAgainLater);
}

}  // namespace
}  // namespace heterok8s::cni
