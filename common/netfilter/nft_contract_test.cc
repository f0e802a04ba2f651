// What holds for every Nft: the kernel's in a namespace of its own, and the fake.
#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <memory>
#include <thread>

#include "common/netfilter/counters.h"
#include "common/netfilter/fake_nft.h"
#include "common/netfilter/libnftables_nft.h"
#include "common/netfilter/port_set.h"
#include "common/netfilter/probe.h"
#include "common/sys/netns.h"
#include "common/testing/matchers.h"

namespace heterok8s::netfilter {
namespace {

using testing::HasCode;

struct FakeNftEnv {
  void Use(const std::function<void(Nft&)>& fn) { fn(nft); }
  FakeNft nft;
};

struct KernelNftEnv {
  KernelNftEnv() : path(fmt::format("/run/netns/hk{}-nft", getpid())), ns(*sys::CreateNetns(path)) {}
  ~KernelNftEnv() { (void)sys::DeleteNetns(path); }
  void Use(const std::function<void(Nft&)>& fn) {
    REQUIRE_OK(sys::InNetns(ns, [&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(std::unique_ptr<Nft> nft, OpenNft());
      fn(*nft);
      return absl::OkStatus();
    }));
  }
  std::string path;
  sys::NetnsRef ns;
};

const char kTable[] =
    "add table inet t\n"
    "add set inet t ports { type inet_proto . inet_service; }\n"
    "add map inet t to { type inet_proto . inet_service : ipv4_addr . inet_service; }\n"
    "add counter inet t dropped\n"
    "add chain inet t c { type filter hook prerouting priority 0; }\n"
    "flush table inet t\n"
    "add rule inet t c meta l4proto . th dport @ports counter name dropped drop\n";

TEMPLATE_TEST_CASE("elements are read back as they were written, sorted", "[contract]", FakeNftEnv, KernelNftEnv) {
  TestType env;
  env.Use([](Nft& nft) {
    REQUIRE_OK(nft.Run(kTable));

    REQUIRE_OK(
        nft.Run("add element inet t ports { udp . 53, tcp . 80 }\n"
                "add element inet t to { tcp . 81 comment \"pod\" : 10.0.0.1 . 8080 }\n"));

    auto ports = nft.Elements("inet t", "ports");
    REQUIRE_OK(ports);
    CHECK(*ports == std::vector<NftElement>{{.key = {"tcp", "80"}}, {.key = {"udp", "53"}}});
    auto to = nft.Elements("inet t", "to");
    REQUIRE_OK(to);
    CHECK(*to == std::vector<NftElement>{{.key = {"tcp", "81"}, .value = {"10.0.0.1", "8080"}, .comment = "pod"}});
    auto all = nft.AllElements("inet t");
    REQUIRE_OK(all);
    CHECK(*all == std::map<std::string, std::vector<NftElement>>{{"ports", *ports}, {"to", *to}});
    CHECK_THAT(nft.AllElements("inet none").status(), HasCode(absl::StatusCode::kNotFound));
  });
}

TEMPLATE_TEST_CASE("a script is all or nothing", "[contract]", FakeNftEnv, KernelNftEnv) {
  TestType env;
  env.Use([](Nft& nft) {
    REQUIRE_OK(nft.Run(kTable));

    CHECK_THAT(nft.Run("add element inet t ports { tcp . 80 }\nadd element inet t nowhere { tcp . 81 }\n"),
               HasCode(absl::StatusCode::kNotFound));

    CHECK(nft.Elements("inet t", "ports")->empty());
  });
}

TEMPLATE_TEST_CASE("flushing a table keeps its elements", "[contract]", FakeNftEnv, KernelNftEnv) {
  TestType env;
  env.Use([](Nft& nft) {
    REQUIRE_OK(nft.Run(kTable));
    REQUIRE_OK(nft.Run("add element inet t ports { tcp . 80 }\n"));
    std::string before = *nft.Print("inet t");

    REQUIRE_OK(nft.Run(kTable));

    CHECK(nft.Elements("inet t", "ports")->size() == 1);
    CHECK(*nft.Print("inet t") == before);
  });
}

TEMPLATE_TEST_CASE("what is missing is not found, what exists already is not created", "[contract]", FakeNftEnv,
                   KernelNftEnv) {
  TestType env;
  env.Use([](Nft& nft) {
    CHECK_THAT(nft.Run("delete table inet t\n"), HasCode(absl::StatusCode::kNotFound));
    CHECK_THAT(nft.Print("inet t").status(), HasCode(absl::StatusCode::kNotFound));
    CHECK_THAT(nft.Elements("inet t", "ports").status(), HasCode(absl::StatusCode::kNotFound));
    REQUIRE_OK(nft.Run(kTable));
    CHECK_THAT(nft.Run("delete element inet t ports { tcp . 80 }\n"), HasCode(absl::StatusCode::kNotFound));
    CHECK_THAT(nft.Run("create table inet t\n"), HasCode(absl::StatusCode::kAlreadyExists));
    REQUIRE_OK(nft.Run("add element inet t ports { tcp . 80 }\n"));
    CHECK_OK(nft.Run("add element inet t ports { tcp . 80 }\n"));
    CHECK_THAT(nft.Run("create element inet t ports { tcp . 80 }\n"), HasCode(absl::StatusCode::kAlreadyExists));
    CHECK_THAT(nft.Run("bake cake inet t\n"), HasCode(absl::StatusCode::kInvalidArgument));
  });
}

TEMPLATE_TEST_CASE("counters have names", "[contract]", FakeNftEnv, KernelNftEnv) {
  TestType env;
  env.Use([](Nft& nft) {
    REQUIRE_OK(nft.Run(kTable));

    auto counters = nft.Counters("inet t");

    REQUIRE_OK(counters);
    CHECK(*counters == std::map<std::string, NftCounter>{{"dropped", {0, 0}}});
  });
}

TEST_CASE("counters are read without libnftables as with it") {
  KernelNftEnv env;
  auto read = [&] {
    absl::StatusOr<std::map<std::string, NftCounter>> counters = absl::UnknownError("not read");
    REQUIRE_OK(sys::InNetns(env.ns, [&] {
      counters = ReadCounters("t");
      return absl::OkStatus();
    }));
    return counters;
  };
  CHECK_THAT(read().status(), HasCode(absl::StatusCode::kNotFound));

  env.Use([](Nft& nft) {
    REQUIRE_OK(nft.Run(kTable));
    REQUIRE_OK(nft.Run("add counter inet t full { packets 7 bytes 4294967296 }\n"));
  });
  auto counters = read();

  REQUIRE_OK(counters);
  CHECK((*counters)["full"] == NftCounter{7, 4294967296});
  env.Use([&](Nft& nft) { CHECK(*counters == *nft.Counters("inet t")); });
}

TEST_CASE("one port goes in and out of a set without libnftables") {
  KernelNftEnv env;
  env.Use([](Nft& nft) { REQUIRE_OK(nft.Run(kTable)); });
  const PortSet ports{.table = "t", .set = "ports"};
  auto elements = [&] {
    size_t count = 0;
    env.Use([&](Nft& nft) { count = nft.Elements("inet t", "ports")->size(); });
    return count;
  };

  for (int i = 0; i < 2; ++i) CHECK_OK(SetPortElement(env.ns, ports, Protocol::kTcp, 80, true));
  CHECK_OK(SetPortElement(env.ns, ports, Protocol::kUdp, 65535, true));
  CHECK(elements() == 2);
  for (int i = 0; i < 2; ++i) CHECK_OK(SetPortElement(env.ns, ports, Protocol::kTcp, 80, false));
  CHECK(elements() == 1);
  CHECK_THAT(SetPortElement(env.ns, {.table = "t", .set = "none"}, Protocol::kTcp, 80, true),
             HasCode(absl::StatusCode::kNotFound));
}

TEST_CASE("all ports of a set change at once without libnftables") {
  KernelNftEnv env;
  env.Use([](Nft& nft) { REQUIRE_OK(nft.Run(kTable)); });
  const PortSet ports{.table = "t", .set = "ports"}, none{.table = "t", .set = "none"};
  auto elements = [&] {
    std::vector<NftElement> all;
    env.Use([&](Nft& nft) { all = *nft.Elements("inet t", "ports"); });
    return all;
  };
  std::vector<std::pair<Protocol, uint16_t>> many;
  for (uint16_t port = 1; port < 65535; ++port) many.emplace_back(port % 2 ? Protocol::kTcp : Protocol::kUdp, port);

  CHECK_OK(SetPortElement(env.ns, ports, Protocol::kTcp, 2, true));
  CHECK_OK(ReplacePortElements(env.ns, ports, many));
  CHECK(elements().size() == many.size());
  // One error for each message of the batch; the next request gets its own answer.
  CHECK_THAT(ReplacePortElements(env.ns, none, many), HasCode(absl::StatusCode::kNotFound));
  CHECK_OK(ReplacePortElements(env.ns, ports, {{Protocol::kTcp, 80}, {Protocol::kUdp, 53}}));
  CHECK(elements() == std::vector<NftElement>{{.key = {"tcp", "80"}}, {.key = {"udp", "53"}}});
  CHECK_OK(ReplacePortElements(env.ns, ports, {}));
  CHECK(elements().empty());
}

TEST_CASE("threads in different namespaces do not disturb each other") {
  std::vector<std::thread> threads;
  std::vector<absl::Status> results(8);
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([i, &results] {
      std::string path = fmt::format("/run/netns/hk{}-nft-{}", getpid(), i);
      auto ns = sys::CreateNetns(path);
      results[i] = !ns.ok() ? ns.status() : sys::InNetns(*ns, [&]() -> absl::Status {
        HK_ASSIGN_OR_RETURN(std::unique_ptr<Nft> nft, OpenNft());
        for (int round = 0; round < 10; ++round) {
          HK_RETURN_IF_ERROR(nft->Run(kTable));
          HK_RETURN_IF_ERROR(nft->Run(fmt::format("add element inet t ports {{ tcp . {} }}\n", 100 * i + round + 1)));
          HK_ASSIGN_OR_RETURN(std::vector<NftElement> elements, nft->Elements("inet t", "ports"));
          if (elements.size() != static_cast<size_t>(round + 1))
            return absl::InternalError("another namespace's table");
        }
        return absl::OkStatus();
      });
      (void)sys::DeleteNetns(path);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& result : results) CHECK_OK(result);
}

}  // namespace
}  // namespace heterok8s::netfilter
