// Two agents, each with the processes of one PU (testing/namespaces.h draws the connection between them).
#include <unistd.h>

#include <catch2/catch.hpp>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "common/testing/matchers.h"
#include "heterosock/agent/testing/joined.h"
#include "heterosock/agent/testing/namespaces.h"

namespace heterok8s::heterosock::agent {
namespace {

using nlohmann::json;
using protocol::Reason;
using namespace testing;

// A library on each of two PUs, and the two ends of a connection between them.
struct TwoPus {
  TwoNamespaces namespaces;
  const std::string folder = MakeFolder();
  Agent::Options host, dpu;
  std::unique_ptr<RunningAgent> host_agent, dpu_agent;
  std::optional<Ends> ends;
  std::optional<Client> on_host, on_dpu;

  TwoPus() {
    REQUIRE_OK(namespaces.SetUp());
    host = dpu = Options(namespaces, /*allow=*/true);
    host.offer_deadline = dpu.offer_deadline = kPatience;
    dpu.pu_listen = host.pu_connect = folder + "/pu.sock";
  }
  ~TwoPus() {
    host_agent.reset();
    dpu_agent.reset();
    rmdir(folder.c_str());
  }
  void Start() {
    auto listens = RunningAgent::Start(dpu), connects = RunningAgent::Start(host);
    REQUIRE_OK(listens);
    REQUIRE_OK(connects);
    dpu_agent = *std::move(listens);
    host_agent = *std::move(connects);
    REQUIRE(Becomes(*dpu_agent, [](const json& s) { return s["totals"]["pu_link"] == true; }));
    REQUIRE(Becomes(*host_agent, [](const json& s) { return s["totals"]["pu_link"] == true; }));
    auto made = MakeEnds(namespaces, /*through_nat=*/false);
    auto near = Client::Connect(host_agent->socket()), far = Client::Connect(dpu_agent->socket());
    REQUIRE_OK(made);
    REQUIRE_OK(near);
    REQUIRE_OK(far);
    ends = *std::move(made);
    on_host = *std::move(near);
    on_dpu = *std::move(far);
  }
  void Offer() {
    REQUIRE_OK(on_host->Offer(1, ends->client.get()));
    REQUIRE_OK(on_dpu->Offer(1, ends->server.get()));
  }
};

TEST_CASE("a policy that is read again and is the same leaves what two PUs share, another one ends it", "[netns]") {
  TwoPus pus;
  pus.Start();
  pus.Offer();
  REQUIRE_OK(pus.on_host->Await<protocol::Paired>());
  REQUIRE_OK(pus.on_dpu->Await<protocol::Paired>());
  RunningAgent& reloaded = GENERATE(true, false) ? *pus.host_agent : *pus.dpu_agent;

  reloaded.agent().Post([policy = pus.host.policy](Agent& a) { a.SetPolicy(policy); });
  CHECK(json::parse(reloaded.StatusText())["totals"]["fences"] == 0);

  reloaded.agent().Post([](Agent& a) { a.SetPolicy(Policy()); });
  for (Client* each : {&*pus.on_host, &*pus.on_dpu}) {
    auto fence = each->Await<protocol::Fence>();
    REQUIRE_OK(fence);
    CHECK(fence->first.reason == static_cast<uint32_t>(Reason::kPolicyChanged));
  }
}

TEST_CASE("what one PU's policy forbids is not shared, whichever it is", "[netns]") {
  TwoPus pus;
  const bool host_forbids = GENERATE(true, false);
  (host_forbids ? pus.host : pus.dpu).policy = Policy();
  pus.Start();

  pus.Offer();

  auto declined = pus.on_host->Await<protocol::Declined>();
  REQUIRE_OK(declined);
  CHECK(declined->first.reason == static_cast<uint32_t>(Reason::kPolicy));
  if (host_forbids) {
    REQUIRE_OK(pus.on_dpu->Await<protocol::Paired>());
    REQUIRE_OK(pus.on_dpu->Await<protocol::Fence>());
  } else {
    REQUIRE_OK(pus.on_dpu->Await<protocol::Declined>());
  }
}

TEST_CASE("where an operator has all stay on TCP, the other PU's offers are declined, too", "[netns]") {
  TwoPus pus;
  pus.dpu.admin = pus.folder + "/admin.sock";
  pus.Start();
  const auto is_declined = [&](uint64_t offer) {
    auto declined = pus.on_host->Await<protocol::Declined>();
    REQUIRE_OK(declined);
    CHECK(declined->first.offer_id == offer);
    CHECK(declined->first.reason == static_cast<uint32_t>(Reason::kOperator));
    CHECK(declined->first.retry_after_ms > 0);
  };
  REQUIRE_OK(pus.on_host->Offer(1, pus.ends->client.get()));
  REQUIRE(Becomes(*pus.dpu_agent, [](const json& s) { return s["totals"]["waiting_offers"] == 1; }));

  CHECK(json::parse(Ask(pus.dpu.admin, "{\"command\":\"fence\",\"stay\":true}\n"))["stays_on_tcp"] == true);

  is_declined(1);
  REQUIRE_OK(pus.on_host->Offer(2, pus.ends->client.get()));
  is_declined(2);
  CHECK(json::parse(Ask(pus.dpu.admin, "{\"command\":\"resume\"}\n"))["stays_on_tcp"] == false);
  REQUIRE_OK(pus.on_host->Offer(3, pus.ends->client.get()));
  REQUIRE_OK(pus.on_dpu->Offer(3, pus.ends->server.get()));
  CHECK_OK(pus.on_host->Await<protocol::Paired>());
  CHECK_OK(pus.on_dpu->Await<protocol::Paired>());
}

TEST_CASE("an agent that does not read for a while gets every offer of the other one when it does", "[netns]") {
  constexpr uint64_t kMany = 400;  // the socket between them takes 150
  TwoPus pus;
  pus.host.max_pending_offers = pus.dpu.max_pending_offers = kMany;
  pus.Start();
  std::promise<void> reads;
  pus.dpu_agent->agent().Post([go = reads.get_future().share()](Agent&) { go.wait(); });
  std::vector<Ends> connections;
  for (uint64_t i = 1; i <= kMany; ++i) {
    auto ends = MakeEnds(pus.namespaces, /*through_nat=*/false);
    if (ends.ok()) connections.push_back(*std::move(ends));
    if (connections.size() != i || !pus.on_host->Offer(i, connections.back().client.get()).ok() ||
        !Becomes(*pus.host_agent, [i](const json& s) { return s["totals"]["waiting_offers"] == i; }))
      break;
  }

  reads.set_value();  // whatever failed: the agent's thread is to end

  REQUIRE(connections.size() == kMany);
  for (uint64_t i = 1; i <= kMany; ++i) {
    REQUIRE_OK(pus.on_dpu->Offer(i, connections[i - 1].server.get()));
    REQUIRE_OK(pus.on_dpu->Await<protocol::Paired>());
    REQUIRE_OK(pus.on_host->Await<protocol::Paired>());
  }
}

TEST_CASE("two agents join a connection whose ends are on two PUs", "[netns]") {
  TwoNamespaces namespaces;
  REQUIRE_OK(namespaces.SetUp());
  const std::string folder = MakeFolder();
  Agent::Options host = Options(namespaces, /*allow=*/true), dpu = host;
  host.offer_deadline = dpu.offer_deadline = kPatience;
  dpu.pu_listen = host.pu_connect = folder + "/pu.sock";
  auto dpu_agent = RunningAgent::Start(dpu);
  REQUIRE_OK(dpu_agent);
  auto host_agent = RunningAgent::Start(host);
  REQUIRE_OK(host_agent);
  const auto joined = [](const json& status) { return status["totals"]["pu_link"].get<bool>(); };
  for (int i = 0; i < 4000 && !joined(json::parse((*dpu_agent)->StatusText())); ++i) usleep(5000);
  REQUIRE(joined(json::parse((*host_agent)->StatusText())));

  auto ends = MakeEnds(namespaces, /*through_nat=*/false);
  REQUIRE_OK(ends);
  auto on_host = Client::Connect((*host_agent)->socket()), on_dpu = Client::Connect((*dpu_agent)->socket());
  REQUIRE_OK(on_host);
  REQUIRE_OK(on_dpu);

  SECTION("either end may offer first; both get one channel") {
    const bool host_first = GENERATE(true, false);
    if (host_first) {
      REQUIRE_OK(on_host->Offer(1, ends->client.get()));
      for (int i = 0; i < 4000; ++i) {
        if (json::parse((*dpu_agent)->StatusText())["totals"]["waiting_offers"] == 1) break;
        usleep(5000);
      }
      REQUIRE_OK(on_dpu->Offer(1, ends->server.get()));
    } else {
      REQUIRE_OK(on_dpu->Offer(1, ends->server.get()));
      REQUIRE_OK(on_host->Offer(1, ends->client.get()));
    }
    auto near = on_host->Await<protocol::Paired>(), far = on_dpu->Await<protocol::Paired>();
    REQUIRE_OK(near);
    REQUIRE_OK(far);
    CHECK(near->first.nonce == far->first.nonce);
    CHECK(near->first.side + far->first.side == 1);
    const uint64_t word = 0x77;
    uint64_t seen = 0;
    CHECK(pwrite(near->second.descriptors[0].get(), &word, sizeof word, 65536) == sizeof word);
    CHECK(pread(far->second.descriptors[0].get(), &seen, sizeof seen, 65536) == sizeof seen);
    CHECK(seen == word);
    CHECK(write(near->second.descriptors[2].get(), &word, 8) == 8);
    CHECK(read(far->second.descriptors[1].get(), &seen, 8) == 8);
    CHECK(json::parse((*host_agent)->StatusText())["channels"][0]["ends"].dump().find("\"other\"") !=
          std::string::npos);

    // The end of one side is the end of the other's count.
    REQUIRE_OK(on_host->Release(near->first.channel_id, Reason::kClosed));
    REQUIRE_OK(on_dpu->Release(far->first.channel_id, Reason::kClosed));
    for (RunningAgent* agent : {host_agent->get(), dpu_agent->get()}) {
      size_t left = 1;
      for (int i = 0; i < 4000 && left != 0; ++i, usleep(5000)) {
        left = json::parse(agent->StatusText())["channels"].size();
      }
      CHECK(left == 0);
    }
  }
  SECTION("the other agent dies: what waits is declined, what exists goes on, and they join again") {
    REQUIRE_OK(on_host->Offer(1, ends->client.get()));
    dpu_agent->reset();
    for (int i = 0; i < 4000 && joined(json::parse((*host_agent)->StatusText())); ++i) usleep(5000);
    CHECK_FALSE(joined(json::parse((*host_agent)->StatusText())));
    dpu_agent = RunningAgent::Start(dpu);
    REQUIRE_OK(dpu_agent);
    for (int i = 0; i < 4000 && !joined(json::parse((*host_agent)->StatusText())); ++i) usleep(5000);
    CHECK(joined(json::parse((*host_agent)->StatusText())));
  }
  host_agent->reset();
  dpu_agent->reset();
  rmdir(folder.c_str());
}

}  // namespace
}  // namespace heterok8s::heterosock::agent
