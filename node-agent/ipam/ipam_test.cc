#include "node-agent/ipam/ipam.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <set>

#include "common/testing/matchers.h"
#include "node-agent/ipam/ipam_config.h"
#include "node-agent/ledger/testing.h"

namespace heterok8s::ipam {
namespace {

using testing::Says;

cni::Request RequestWith(const std::string& ipam, const std::string& fields = "") {
  absl::StatusOr<cni::Request> request =
      cni::ParseRequest({{"CNI_COMMAND", "ADD"}, {"CNI_CONTAINERID", "c"}, {"CNI_NETNS", "/x"}, {"CNI_IFNAME", "eth0"}},
                        fmt::format(R"({{"cniVersion":"1.1.0","name":"podnet","ipam":{}{}}})", ipam, fields));
  REQUIRE_OK(request);
  return *request;
}

struct Bench {
  ledger::TempLedger temp;
  std::unique_ptr<Ipam> ipam = NewIpam();

  absl::StatusOr<Lease> Allocate(const cni::Request& request, const std::string& pod) {
    absl::StatusOr<Lease> lease = absl::InternalError("not run");
    absl::Status status = temp->Transact([&](ledger::Tx& tx) -> absl::Status {
      lease = ipam->Allocate(tx, request, pod);
      return lease.status();
    });
    if (!status.ok()) return status;
    return lease;
  }
  absl::Status Release(const cni::Request& request, const std::string& pod) {
    return temp->Transact([&](ledger::Tx& tx) { return ipam->Release(tx, request, pod); });
  }
  absl::Status Check(const cni::Request& request, const std::string& pod) {
    return temp->Transact([&](ledger::Tx& tx) { return ipam->Check(tx, request, pod); });
  }
  // "10.1.0.2/32 fd00::2/128", or the error
  std::string Ips(const cni::Request& request, const std::string& pod) {
    absl::StatusOr<Lease> lease = Allocate(request, pod);
    if (!lease.ok()) return fmt::format("{}: {}", cni::CodeOf(lease.status()), Message(lease.status()));
    std::string text;
    for (const cni::ResultIp& ip : lease->ips) text += (text.empty() ? "" : " ") + ip.address.ToString();
    return text;
  }
};

TEST_CASE("a Pod gets one address of each range set, with full length and default routes") {
  Bench bench;
  cni::Request request =
      RequestWith(R"({"type":"heterok8s","ranges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"fd00:1::/64"}]]})");

  absl::StatusOr<Lease> lease = bench.Allocate(request, "pod1");

  REQUIRE_OK(lease);
  REQUIRE(lease->ips.size() == 2);
  CHECK(lease->ips[0].address.ToString() == "10.1.0.2/32");
  CHECK(lease->ips[1].address.ToString() == "fd00:1::2/128");
  CHECK_FALSE(lease->ips[0].gateway);
  REQUIRE(lease->routes.size() == 2);
  CHECK(lease->routes[0].dst.ToString() == "0.0.0.0/0");
  CHECK(lease->routes[1].dst.ToString() == "::/0");
}

TEST_CASE("a lease says where the network's Pods are: all subnets of the configuration, each once") {
  Bench bench;
  cni::Request request = RequestWith(R"({"type":"heterok8s","ranges":[
      [{"subnet":"10.1.2.0/24","rangeStart":"10.1.2.100"},{"subnet":"10.1.4.0/24","rangeEnd":"10.1.4.9"},
       {"subnet":"10.1.4.0/24","rangeStart":"10.1.4.20"},{"subnet":"10.1.2.0/25","rangeEnd":"10.1.2.9"}],
      [{"subnet":"fd00:1::/64"}]]})");

  absl::StatusOr<Lease> lease = bench.Allocate(request, "pod1");

  REQUIRE_OK(lease);
  std::vector<std::string> subnets;
  for (const IpPrefix& subnet : lease->subnets) subnets.push_back(subnet.ToString());
  CHECK(subnets == std::vector<std::string>{"10.1.2.0/24", "10.1.4.0/24", "fd00:1::/64"});
}

TEST_CASE("asking again for the same Pod answers the same lease") {
  Bench bench;
  cni::Request request = RequestWith(R"({"type":"host-local","subnet":"10.1.0.0/24"})");

  CHECK(bench.Ips(request, "pod1") == bench.Ips(request, "pod1"));
  CHECK(bench.Ips(request, "pod2") != bench.Ips(request, "pod1"));
}

TEST_CASE("an address is not reused right after its Pod is gone") {
  Bench bench;
  cni::Request request = RequestWith(R"({"type":"host-local","subnet":"10.1.0.0/24"})");
  std::string first = bench.Ips(request, "pod1");

  REQUIRE_OK(bench.Release(request, "pod1"));

  CHECK(bench.Ips(request, "pod2") != first);
}

TEST_CASE("every address of a range is handed out, but gateway, network and broadcast; then it is exhausted") {
  Bench bench;
  struct Row {
    const char* ipam;
    std::set<std::string> all;
  };
  for (const Row& row : {
           Row{.ipam = R"({"subnet":"10.1.0.0/29"})",
          .all = {"10.1.0.2/32", "10.1.0.3/32", "10.1.0.4/32", "10.1.0.5/32", "10.1.0.6/32"}},
           Row{.ipam = R"({"subnet":"10.2.0.0/29","gateway":"10.2.0.4"})",
           .all = {"10.2.0.1/32", "10.2.0.2/32", "10.2.0.3/32", "10.2.0.5/32", "10.2.0.6/32"}},
           Row{.ipam = R"({"subnet":"10.3.0.0/24","rangeStart":"10.3.0.254","rangeEnd":"10.3.0.255"})",
           .all = {"10.3.0.254/32"}},
           Row{.ipam = R"({"subnet":"fd00::/126"})", .all = {"fd00::2/128", "fd00::3/128"}},
           Row{.ipam = R"({"subnet":"fd01::/120","gateway":"fd01::80","rangeStart":"fd01::7f","rangeEnd":"fd01::80"})",
           .all = {"fd01::7f/128"}},
           Row{.ipam = R"({"ranges":[[{"subnet":"10.4.0.0/30"},{"subnet":"10.5.0.0/30"}]]})",
           .all = {"10.4.0.2/32", "10.5.0.2/32"}},
       }) {
    INFO(row.ipam);
    cni::Request request = RequestWith(row.ipam);
    std::set<std::string> got;
    for (size_t i = 0; i < row.all.size(); ++i) got.insert(bench.Ips(request, fmt::format("{}-{}", row.ipam, i)));

    CHECK(got == row.all);
    CHECK_THAT(bench.Ips(request, "one too many"), Catch::StartsWith("101: no free address"));
  }
}

TEST_CASE("a requested address is given when it is free and in a range") {
  Bench bench;
  const char* ipam = R"({"ranges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"fd00:1::/64"}]]})";
  auto asking = [&](const std::string& ips) {
    return RequestWith(ipam, fmt::format(R"(,"runtimeConfig":{{"ips":[{}]}})", ips));
  };

  CHECK(bench.Ips(asking(R"("10.1.0.77")"), "pod1") == "10.1.0.77/32 fd00:1::2/128");
  CHECK(bench.Ips(asking(R"("fd00:1::77/64","10.1.0.78/24")"), "pod2") == "10.1.0.78/32 fd00:1::77/128");
  CHECK_THAT(bench.Ips(asking(R"("10.1.0.77")"), "pod3"),
             Catch::StartsWith("101: requested address 10.1.0.77 is taken"));
  CHECK_THAT(bench.Ips(asking(R"("10.9.0.1")"), "pod3"), Catch::StartsWith("7: requested address 10.9.0.1"));
  CHECK_THAT(bench.Ips(asking(R"("10.1.0.1")"), "pod3"), Catch::StartsWith("7: "));  // the gateway
  CHECK_THAT(bench.Ips(asking(R"("10.1.0.8","10.1.0.9")"), "pod3"), Catch::Contains("one range set"));
  CHECK_THAT(bench.Ips(asking(R"("10.1.0.8")"), "pod1"), Catch::Contains("has 10.1.0.77 already"));
  CHECK(bench.temp->ListAddresses()->size() == 4);
}

TEST_CASE("a Pod that fails to get its second address keeps no first one") {
  Bench bench;
  cni::Request request = RequestWith(R"({"ranges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"10.2.0.0/30"}]]})");
  REQUIRE_OK(bench.Allocate(request, "pod1"));

  CHECK_THAT(bench.Ips(request, "pod2"), Catch::StartsWith("101"));

  CHECK(bench.temp->ListAddresses()->size() == 2);
}

TEST_CASE("checking finds a lease that is gone, and one that is not what the runtime was told") {
  Bench bench;
  const char* ipam = R"({"subnet":"10.1.0.0/24"})";
  REQUIRE_OK(bench.Allocate(RequestWith(ipam), "pod1"));
  auto shown = [&](const std::string& ip) {
    return RequestWith(ipam, fmt::format(R"(,"prevResult":{{"ips":[{{"address":"{}"}}]}})", ip));
  };

  CHECK_OK(bench.Check(shown("10.1.0.2/32"), "pod1"));
  CHECK_THAT(bench.Check(shown("10.1.0.3/32"), "pod1"), Says("prevResult does not show"));
  CHECK_THAT(bench.Check(shown("10.1.0.2/32"), "pod2"), Says("holds no address"));
}

TEST_CASE("a configuration that cannot work is refused by its key") {
  Bench bench;
  struct Row {
    const char *ipam, *says;
  };
  for (const Row& row : {
           Row{.ipam = "null", .says = "'ipam' is missing"},
           Row{.ipam = "{}", .says = "neither 'ranges' nor 'subnet'"},
           Row{.ipam = R"({"subnet":"10.1.0.5/24"})", .says = "did you mean 10.1.0.0/24?"},
           Row{.ipam = R"({"subnet":"10.1.0.0/31"})", .says = "too small"},
           Row{.ipam = R"({"subnet":"banana"})", .says = "'ipam.subnet'"},
           Row{.ipam = R"({"ranges":{}})", .says = "'ipam.ranges' must be a list"},
           Row{.ipam = R"({"ranges":[[]]})", .says = "'ipam.ranges[0]'"},
           Row{.ipam = R"({"ranges":[[{"subnet":"10.1.0.0/24"},{"subnet":"fd00::/64"}]]})", .says = "mixes"},
           Row{.ipam = R"({"ranges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"10.1.0.0/25"}]]})", .says = "overlap"},
           Row{.ipam = R"({"subnet":"10.1.0.0/24","rangeStart":"10.2.0.1"})", .says = "10.2.0.1 is not in 10.1.0.0/24"},
           Row{.ipam = R"({"subnet":"10.1.0.0/24","rangeStart":"10.1.0.9","rangeEnd":"10.1.0.8"})",
           .says = "comes after"},
           Row{.ipam = R"({"subnet":"10.1.0.0/24","routes":[{"dst":"x"}]})", .says = "routes[0].dst"},
           Row{.ipam = R"({"subnet":"10.1.0.0/24","resolvConf":"/nonexistent"})", .says = "resolvConf"},
       }) {
    INFO(row.ipam);
    absl::Status status = bench.Allocate(RequestWith(row.ipam), "pod").status();

    CHECK(cni::CodeOf(status) == cni::kInvalidConfig);
    CHECK_THAT(status, Says(row.says));
  }
}

TEST_CASE("resolv.conf is read as the resolver reads it") {
  cni::Dns dns =
      ParseResolvConf("# c\nnameserver 10.0.0.1\nnameserver ::1 # x\nsearch a\nsearch b c\noptions ndots:5\n");

  CHECK(dns.nameservers == std::vector<std::string>{"10.0.0.1", "::1"});
  CHECK(dns.search == std::vector<std::string>{"b", "c"});
  CHECK(dns.options == std::vector<std::string>{"ndots:5"});
}

}  // namespace
}  // namespace heterok8s::ipam
