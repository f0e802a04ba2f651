#include <catch2/catch.hpp>

#include "common/cni/types.h"
#include "common/testing/matchers.h"

namespace heterok8s::cni {
namespace {

using testing::Says;
using Environment = std::map<std::string, std::string>;

Environment Env(const std::string& command) {
  return {{"CNI_COMMAND", command}, {"CNI_CONTAINERID", "c1"}, {"CNI_NETNS", "/run/netns/x"}, {"CNI_IFNAME", "eth0"}};
}

std::string Config(const std::string& version, const std::string& fields = "") {
  return R"({"cniVersion":")" + version + R"(","name":"n","type":"t")" + (fields.empty() ? "" : "," + fields) + "}";
}

int Code(const Environment& environment, const std::string& text) {
  return CodeOf(ParseRequest(environment, text).status());
}

Environment Changed(Environment environment, const std::string& key, const std::string& value) {
  environment[key] = value;
  return environment;
}

TEST_CASE("a good call of every verb is understood") {
  for (const char* command : {"ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"}) {
    INFO(command);
    absl::StatusOr<Request> request =
        ParseRequest(Env(command), Config("1.1.0", R"("prevResult": {"interfaces": [], "ips": []})"));

    REQUIRE_OK(request);
    CHECK(Name(request->command) == command);
  }
}

TEST_CASE("missing variables are named, all at once") {
  absl::Status status = ParseRequest({{"CNI_COMMAND", "ADD"}, {"CNI_IFNAME", "eth0"}}, Config("1.0.0")).status();

  CHECK(CodeOf(status) == kInvalidEnvironment);
  CHECK_THAT(status, Says("[CNI_CONTAINERID,CNI_NETNS]"));
  CHECK(Code({}, "") == kInvalidEnvironment);
  CHECK(Code(Changed(Env("DEL"), "CNI_NETNS", ""), Config("1.0.0")) == 0);
  CHECK(Code({{"CNI_COMMAND", "STATUS"}}, Config("1.1.0")) == 0);
  CHECK(Code({{"CNI_COMMAND", "VERSION"}}, "") == 0);
}

TEST_CASE("names that the kernel or a file system would refuse are refused here") {
  for (const char* ifname : {"a/b", "a:b", "a b", ".", "..", "sixteen-letters-"}) {
    INFO(ifname);
    CHECK(Code(Changed(Env("ADD"), "CNI_IFNAME", ifname), Config("1.0.0")) == kInvalidEnvironment);
  }
  for (const char* id : {"../x", "a b", "-a", "a\n"}) {
    INFO(id);
    CHECK(Code(Changed(Env("ADD"), "CNI_CONTAINERID", id), Config("1.0.0")) == kInvalidEnvironment);
  }
  CHECK(Code(Changed(Env("ADD"), "CNI_COMMAND", "add"), Config("1.0.0")) == kInvalidEnvironment);
}

TEST_CASE("a version we do not speak, or that has no such verb, is incompatible") {
  for (const char* version : {"0.1.0", "0.2.0", "1.2.0", "9.9.9", "banana", ""}) {
    INFO(version);
    CHECK(Code(Env("ADD"), Config(version)) == kIncompatibleVersion);
    CHECK(Code(Env("DEL"), Config(version)) == kIncompatibleVersion);
  }
  CHECK(Code(Env("CHECK"), Config("0.3.1", R"("prevResult": {})")) == kIncompatibleVersion);
  CHECK(Code(Env("GC"), Config("1.0.0")) == kIncompatibleVersion);
  CHECK(Code(Env("STATUS"), Config("1.0.0")) == kIncompatibleVersion);
  CHECK(Code(Env("ADD"), R"({"name": "n"})") == kIncompatibleVersion);
}

TEST_CASE("CNI_ARGS carries the Pod and what it asks for") {
  absl::StatusOr<Request> request =
      ParseRequest(Changed(Env("ADD"), "CNI_ARGS",
                           "IgnoreUnknown=1;K8S_POD_NAME=web;K8S_POD_NAMESPACE=default;K8S_POD_UID=u;X=a=b;"
                           "IP=10.88.0.9;MAC=02:00:00:00:00:01"),
                   Config("1.0.0"));

  REQUIRE_OK(request);
  CHECK(request->pod_name() == "web");
  CHECK(request->pod_namespace() == "default");
  CHECK(request->pod_uid() == "u");
  CHECK(request->Arg("X") == "a=b");
  CHECK(request->config.requested_ips.at(0).ToString() == "10.88.0.9/32");
  CHECK(request->config.requested_mac == "02:00:00:00:00:01");
}

TEST_CASE("what runtimeConfig asks for wins over CNI_ARGS") {
  absl::StatusOr<Request> request = ParseRequest(Changed(Env("ADD"), "CNI_ARGS", "IP=10.88.0.9"),
                                                 Config("1.0.0", R"("runtimeConfig": {"ips": ["10.88.0.7/16"]})"));

  REQUIRE_OK(request);
  REQUIRE(request->config.requested_ips.size() == 1);
  CHECK(request->config.requested_ips[0].ToString() == "10.88.0.7/16");
}

TEST_CASE("unknown or malformed CNI_ARGS fail ADD and not DEL") {
  CHECK(Code(Changed(Env("ADD"), "CNI_ARGS", "FOO=bar"), Config("1.0.0")) == kInvalidEnvironment);
  CHECK(Code(Changed(Env("ADD"), "CNI_ARGS", "FOO=bar;IgnoreUnknown=true"), Config("1.0.0")) == 0);
  CHECK(Code(Changed(Env("ADD"), "CNI_ARGS", "nonsense"), Config("1.0.0")) == kInvalidEnvironment);
  CHECK(Code(Changed(Env("ADD"), "CNI_ARGS", "IP=x"), Config("1.0.0")) == kInvalidEnvironment);
  CHECK(Code(Changed(Env("DEL"), "CNI_ARGS", "nonsense;FOO=bar;IP=x"), Config("1.0.0")) == 0);
}

TEST_CASE("DEL works with a cached result that is broken; CHECK needs a whole one") {
  CHECK(Code(Env("DEL"), Config("1.0.0", R"("prevResult": {"ips": 5}, "runtimeConfig": 7)")) == 0);
  CHECK(Code(Env("CHECK"), Config("1.0.0")) == kInvalidConfig);
  CHECK(Code(Env("CHECK"), Config("1.0.0", R"("prevResult": {"ips": 5})")) == kInvalidConfig);
}

TEST_CASE("the call as received is kept for delegation") {
  Environment environment = Changed(Env("ADD"), "TRACEPARENT", "00-1-2-01");
  std::string text = Config("1.0.0", R"("x": [1,  2])");

  absl::StatusOr<Request> request = ParseRequest(environment, text);

  REQUIRE_OK(request);
  CHECK(request->environment == environment);
  CHECK(request->stdin_text == text);
}

}  // namespace
}  // namespace heterok8s::cni
