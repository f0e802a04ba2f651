// The Pod's table as RunScript makes it beside the one that libnftables makes of the same text, as `nft` lists them.
#include "node-agent/podnet/link_table.h"

#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "common/netfilter/libnftables_nft.h"
#include "common/netfilter/nft_script.h"
#include "common/sys/netns.h"
#include "common/sys/process.h"
#include "common/testing/matchers.h"

namespace heterok8s::podnet {
namespace {

class Namespace {
 public:
  Namespace() : path_(fmt::format("/run/netns/hk{}-table-{}", getpid(), count_++)), ns_(Made()) {}
  ~Namespace() { (void)sys::DeleteNetns(path_); }

  absl::Status ByLibnftables(const std::string& script) {
    return sys::InNetns(ns_, [&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(std::unique_ptr<netfilter::Nft> nft, netfilter::OpenNft());
      return nft->Run(script);
    });
  }
  absl::Status ByHand(const std::string& script) {
    return sys::InNetns(ns_, [&] { return netfilter::RunScript(script); });
  }
  std::string Listed(const char* format) {
    std::string text;
    REQUIRE_OK(sys::InNetns(ns_, [&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(sys::RunResult listed, sys::Run({.argv = {"nft", format, "list", "ruleset"}}));
      text = listed.stdout_text + listed.stderr_text;
      return absl::OkStatus();
    }));
    return text;
  }

 private:
  sys::NetnsRef Made() {
    auto made = sys::CreateNetns(path_);
    REQUIRE_OK(made);
    return *std::move(made);
  }
  static inline int count_ = 0;
  std::string path_;
  sys::NetnsRef ns_;
};

LinkSpec SpecOf(pu::Side side, const std::vector<const char*>& addresses) {
  LinkSpec spec{.side = side};
  spec.ifname = side == pu::Side::kDpu ? "xpu0" : "eth0";
  if (side == pu::Side::kDpu) spec.uplink_ifname = "eth0";
  for (const char* address : addresses) spec.addresses.push_back(*IpAddress::Parse(address));
  spec.link = {.host_localhost = *IpAddress::Parse("169.254.64.4"),
               .dpu_localhost = *IpAddress::Parse("169.254.64.5"),
               .host_pod = *IpAddress::Parse("169.254.64.6"),
               .dpu_pod = *IpAddress::Parse("169.254.64.7")};
  spec.host_ephemeral = {32768, 46999};
  spec.dpu_ephemeral = {47000, 60999};
  return spec;
}

TEST_CASE("the table is the one that libnftables makes of the same script") {
  const std::vector<std::vector<const char*>> pods = {{"10.88.0.5"},
                                                      {"fd00:88::5"},
                                                      {"10.88.0.5", "fd00:88::5"},
                                                      {"10.88.0.5", "10.89.0.5", "fd00:88::5", "fd00:89::5"}};
  for (pu::Side side : {pu::Side::kHost, pu::Side::kDpu}) {
    for (const auto& addresses : pods) {
      for (bool has_socket_match : {true, false}) {
        INFO(fmt::format("{}, {} addresses from {}, {} socket match", side == pu::Side::kHost ? "host" : "DPU",
                         addresses.size(), addresses[0], has_socket_match ? "with" : "without"));
        const std::string script = LinkTableScript(SpecOf(side, addresses), has_socket_match);
        Namespace reference, ours;

        REQUIRE_OK(reference.ByLibnftables(script));
        REQUIRE_OK(ours.ByHand(script));

        CHECK(ours.Listed("-j") == reference.Listed("-j"));
        CHECK(ours.Listed("-a") == reference.Listed("-a"));
      }
    }
  }
}

TEST_CASE("either may make the table anew where the other has made it") {
  const std::string script = LinkTableScript(SpecOf(pu::Side::kDpu, {"10.88.0.5", "fd00:88::5"}), true);
  const std::string port = "add element inet heterok8s dpu_ports { tcp . 80 }\n";
  Namespace by_hand_last, by_libnftables_last;

  REQUIRE_OK(by_hand_last.ByLibnftables(script + port));
  REQUIRE_OK(by_hand_last.ByHand(script));
  REQUIRE_OK(by_libnftables_last.ByHand(script));
  REQUIRE_OK(by_libnftables_last.ByLibnftables(script + port));

  CHECK(by_hand_last.Listed("-j").find("\"elem\": [{\"concat\": [\"tcp\", 80]}]") != std::string::npos);
  CHECK(by_hand_last.Listed("-j") == by_libnftables_last.Listed("-j"));
  REQUIRE_OK(by_hand_last.ByHand(RemoveLinkTableScript()));
  REQUIRE_OK(by_hand_last.ByHand(RemoveLinkTableScript()));
  CHECK(by_hand_last.Listed("-n").empty());
}

}  // namespace
}  // namespace heterok8s::podnet
