#include "common/netfilter/nft_script.h"

#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "common/netfilter/libnftables_nft.h"
#include "common/sys/netns.h"
#include "common/testing/matchers.h"

namespace heterok8s::netfilter {
namespace {

using testing::HasCode;
using testing::Says;

struct Namespace {
  Namespace() : path(fmt::format("/run/netns/hk{}-script", getpid())), ns(*sys::CreateNetns(path)) {}
  ~Namespace() { (void)sys::DeleteNetns(path); }
  absl::Status Run(const std::string& script) {
    return sys::InNetns(ns, [&] { return RunScript(script); });
  }
  absl::StatusOr<std::string> Print() {
    std::string text;
    HK_RETURN_IF_ERROR(sys::InNetns(ns, [&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(std::unique_ptr<Nft> nft, OpenNft());
      HK_ASSIGN_OR_RETURN(text, nft->Print("inet t"));
      return absl::OkStatus();
    }));
    return text;
  }
  std::string path;
  sys::NetnsRef ns;
};

TEST_CASE("a word that is not known is refused with its line") {
  for (const char* line :
       {"add rule inet t c ip saddr 10.0.0.1 masquerade", "add rule inet t c ip ttl 5 drop",
        "add rule inet t c ip saddr fd00::1 drop", "add rule inet t c ip saddr 10.0.0.0/9 drop",
        "add rule inet t c th dport 70000 drop", "add rule inet t c iifname eth* drop",
        "add rule inet t c ct state { new, related } drop", "add rule inet t c ip saddr . ip daddr 10.0.0.1 drop",
        "add rule inet t c ip saddr { 10.0.0.1 drop", "add rule inet t c ip saddr", "add rule ip t c drop",
        "add chain inet t c { type filter hook sideways priority 0; }", "add map inet t m", "insert rule inet t c drop",
        "add table inet t t"}) {
    INFO(line);
    absl::Status status = CompileScript(std::string("add table inet t\n") + line + "\n").status();
    CHECK_THAT(status, HasCode(absl::StatusCode::kInvalidArgument));
    CHECK_THAT(status, Says(line));
  }
  CHECK_THAT(CompileScript("").status(), HasCode(absl::StatusCode::kInvalidArgument));
}

TEST_CASE("a script is all or nothing, and an error names its line") {
  Namespace space;

  absl::Status failed = space.Run("add table inet t\nadd chain inet t c\nadd rule inet t c goto nowhere\n");

  CHECK_THAT(failed, HasCode(absl::StatusCode::kNotFound));
  CHECK_THAT(failed, Says("line 3"));
  CHECK_THAT(space.Print().status(), HasCode(absl::StatusCode::kNotFound));
}

TEST_CASE("what was added is printed in the words it was written in") {
  Namespace space;

  REQUIRE_OK(
      space.Run("add table inet t\n"
                "add chain inet t c { type filter hook prerouting priority raw; policy accept; }\n"
                "add rule inet t c iifname eth0 ip saddr 10.0.0.1 icmp type echo-request drop\n"
                "add rule inet t c ip6 daddr { fd00::1, fd00::2 } ip6 daddr set ::1 notrack accept\n"));

  CHECK(*space.Print() ==
        "table inet t {\n"
        "\tchain c {\n"
        "\t\ttype filter hook prerouting priority raw; policy accept;\n"
        "\t\tiifname \"eth0\" ip saddr 10.0.0.1 icmp type echo-request drop\n"
        "\t\tip6 daddr { fd00::1, fd00::2 } ip6 daddr set ::1 notrack accept\n"
        "\t}\n"
        "}\n");
}

}  // namespace
}  // namespace heterok8s::netfilter
