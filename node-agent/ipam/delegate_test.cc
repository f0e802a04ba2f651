#include <fmt/format.h>
#include <stdlib.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "common/sys/file.h"
#include "common/testing/matchers.h"
#include "node-agent/ipam/ipam.h"

namespace heterok8s::ipam {
namespace {

using testing::Says;

// A folder with a plugin "hk-test-ipam" that notes each call's command and stdin and then does `body` (shell).
struct Plugin {
  explicit Plugin(const std::string& body) {
    char name[] = "/tmp/hkipamXXXXXX";
    REQUIRE(mkdtemp(name) != nullptr);
    folder = name;
    std::string script = fmt::format(
        "#!/bin/sh\necho \"$CNI_COMMAND $CNI_CONTAINERID $TRACEPARENT\" >> {0}/calls\ncat > {0}/stdin\n{1}\n", folder,
        body);
    REQUIRE_OK(sys::WriteFileAtomic(folder + "/hk-test-ipam", script, 0755));
  }
  ~Plugin() { std::filesystem::remove_all(folder); }

  cni::Request Request() const {
    absl::StatusOr<cni::Request> request =
        cni::ParseRequest({{"CNI_COMMAND", "ADD"},
                           {"CNI_CONTAINERID", "c1"},
                           {"CNI_NETNS", "/x"},
                           {"CNI_IFNAME", "eth0"},
                           {"CNI_PATH", "/nonexistent:" + folder},
                           {"TRACEPARENT", "00-7"},
                           {"PATH", "/usr/bin:/bin"}},
                          R"({"cniVersion":"1.0.0","name":"n","ipam":{"type":"hk-test-ipam"},"unknown":[1,  2]})");
    REQUIRE_OK(request);
    return *request;
  }
  std::string Read(const std::string& name) const { return sys::ReadFile(folder + "/" + name).value_or("(none)"); }

  std::string folder;
};

TEST_CASE("a foreign IPAM plugin gets the call as we got it, and its answer becomes a routed lease") {
  Plugin plugin(R"(echo '{"cniVersion":"1.0.0","ips":[{"address":"10.7.0.3/24","gateway":"10.7.0.1"}]}')");
  std::unique_ptr<Ipam> ipam = NewIpam();
  cni::Request request = plugin.Request();

  REQUIRE(ipam->is_delegated(request));
  absl::StatusOr<Lease> lease = ipam->DelegateAdd(request);

  REQUIRE_OK(lease);
  REQUIRE(lease->ips.size() == 1);
  CHECK(lease->ips[0].address.ToString() == "10.7.0.3/32");
  REQUIRE(lease->subnets.size() == 1);
  CHECK(lease->subnets[0].ToString() == "10.7.0.0/24");
  CHECK(lease->routes.at(0).dst.ToString() == "0.0.0.0/0");
  CHECK(plugin.Read("calls") == "ADD c1 00-7\n");
  CHECK(plugin.Read("stdin") == request.stdin_text);
}

TEST_CASE("a foreign IPAM plugin's own error passes unchanged, after its DEL") {
  Plugin plugin(R"([ $CNI_COMMAND = DEL ] || { echo '{"code":123,"msg":"no more","details":"d"}'; exit 1; })");

  absl::Status status = NewIpam()->DelegateAdd(plugin.Request()).status();

  CHECK(cni::CodeOf(status) == 123);
  CHECK(Message(status) == "no more");
  CHECK(plugin.Read("calls") == "ADD c1 00-7\nDEL c1 00-7\n");
}

TEST_CASE("a foreign IPAM plugin's error whose code is none becomes ours") {
  for (const char* code : {"0", "-7", "2147483648", "1.5", "1e300", "\"7\"", "null"}) {
    INFO(code);
    Plugin plugin(fmt::format("echo '{{\"code\":{},\"msg\":\"no more\"}}'; exit 3", code));

    absl::Status status = NewIpam()->DelegateAdd(plugin.Request()).status();

    CHECK(cni::CodeOf(status) == cni::kInternal);
    CHECK_THAT(status, Says("ended with 3 and no CNI error"));
  }
}

TEST_CASE("an answer without a usable address is undone by DEL") {
  for (const char* answer : {"nonsense", "{}", R"({"ips":[{"address":"10.7.0.3"}]})"}) {
    INFO(answer);
    Plugin plugin(fmt::format("[ $CNI_COMMAND = DEL ] || echo '{}'", answer));

    CHECK_FALSE(NewIpam()->DelegateAdd(plugin.Request()).ok());
    CHECK(plugin.Read("calls") == "ADD c1 00-7\nDEL c1 00-7\n");
  }
}

TEST_CASE("routes of an answer are the Pod's; those that it cannot have are named, and undone by DEL") {
  auto answer = [](const std::string& route) {
    return fmt::format(
        R"([ $CNI_COMMAND = DEL ] || echo '{{"ips":[{{"address":"10.7.0.3/24","gateway":"10.7.0.1"}}],"routes":[{}]}}')",
        route);
  };
  Plugin good(answer(R"({"dst":"10.0.0.0/8","gw":"10.7.0.1"})"));
  absl::StatusOr<Lease> lease = NewIpam()->DelegateAdd(good.Request());
  REQUIRE_OK(lease);
  REQUIRE(lease->routes.size() == 1);
  CHECK(lease->routes[0].dst.ToString() == "10.0.0.0/8");
  CHECK_FALSE(lease->routes[0].gw);

  for (const auto& [route, says] : {std::pair(R"({"dst":"10.0.0.0/8","gw":"10.7.0.9"})", "'routes[0].gw' 10.7.0.9"),
                                    std::pair(R"({"dst":"10.0.0.0/8","table":100})", "'routes[0].table'")}) {
    Plugin plugin(answer(route));
    CHECK_THAT(NewIpam()->DelegateAdd(plugin.Request()).status(), Says("IPAM plugin") && Says(says));
    CHECK(plugin.Read("calls") == "ADD c1 00-7\nDEL c1 00-7\n");
  }
}

TEST_CASE("a plugin that is not there, or dies without a word, is named") {
  Plugin plugin("exit 3");
  cni::Request request = plugin.Request();

  CHECK_THAT(NewIpam()->Delegate(request, "STATUS"), Says("ended with 3"));
  request.path = "/nonexistent";
  CHECK_THAT(NewIpam()->Delegate(request, "STATUS"), Says("'hk-test-ipam' is not in CNI_PATH"));
  request.config.ipam["type"] = "../x";
  CHECK_THAT(NewIpam()->Delegate(request, "STATUS"), Says("must be a plugin's name"));
}

}  // namespace
}  // namespace heterok8s::ipam
