// Ends in different network namespaces: policy, NAT and tokens (testing/namespaces.h draws them). The agent runs in the
// test's own namespace.
#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "common/testing/matchers.h"
#include "heterosock/agent/channel_memory.h"
#include "heterosock/agent/testing/namespaces.h"
#include "heterosock/agent/token.h"

namespace heterok8s::heterosock::agent {
namespace {

using nlohmann::json;
using protocol::Reason;
using namespace testing;

TEST_CASE("ends in two namespaces need a chain that joins them", "[netns]") {
  TwoNamespaces namespaces;
  REQUIRE_OK(namespaces.SetUp());
  auto ends = MakeEnds(namespaces, /*through_nat=*/false);
  REQUIRE_OK(ends);

  SECTION("allowed, and fenced when the policy no longer allows it") {
    auto agent = RunningAgent::Start(Options(namespaces, /*allow=*/true));
    REQUIRE_OK(agent);
    auto client = Client::Connect((*agent)->socket()), server = Client::Connect((*agent)->socket());
    REQUIRE_OK(client);
    REQUIRE_OK(server);
    REQUIRE_OK(client->Offer(1, ends->client.get()));
    REQUIRE_OK(server->Offer(1, ends->server.get()));
    CHECK_OK(client->Await<protocol::Paired>());
    CHECK_OK(server->Await<protocol::Paired>());

    (*agent)->agent().Post([](Agent& a) { a.SetPolicy(Policy()); });
    auto fence = server->Await<protocol::Fence>();
    REQUIRE_OK(fence);
    CHECK(fence->first.reason == static_cast<uint32_t>(Reason::kPolicyChanged));
  }
  SECTION("allowed when they were joined, and no longer by the policy of the agent that counts them again") {
    auto agent = RunningAgent::Start(Options(namespaces, /*allow=*/false));
    REQUIRE_OK(agent);
    auto client = Client::Connect((*agent)->socket());
    auto parts = MakeChannel({.id = 1, .epoch = 7, .nonce = 1}, 65536);
    REQUIRE_OK(client);
    REQUIRE_OK(parts);
    protocol::Paired held = protocol::Make<protocol::Paired>();
    held.channel_id = held.nonce = 1;
    held.epoch = 7;
    REQUIRE_OK(client->Resume(held, ends->client.get(), parts->memory.get()));
    held.side = 1;
    REQUIRE_OK(client->Resume(held, ends->server.get(), parts->memory.get()));

    auto fence = client->Await<protocol::Fence>();
    REQUIRE_OK(fence);
    CHECK(fence->first.reason == static_cast<uint32_t>(Reason::kPolicyChanged));
  }
  SECTION("not allowed") {
    auto agent = RunningAgent::Start(Options(namespaces, /*allow=*/false));
    REQUIRE_OK(agent);
    auto client = Client::Connect((*agent)->socket());
    REQUIRE_OK(client);
    REQUIRE_OK(client->Offer(1, ends->client.get()));
    REQUIRE_OK(client->Offer(2, ends->server.get()));
    for (int i = 0; i < 2; ++i) {
      auto declined = client->Await<protocol::Declined>();
      REQUIRE_OK(declined);
      CHECK(declined->first.reason == static_cast<uint32_t>(Reason::kPolicy));
    }
  }
}

TEST_CASE("mirrored addresses of another namespace are not believed", "[netns]") {
  TwoNamespaces namespaces;
  REQUIRE_OK(namespaces.SetUp());
  auto ends = MakeEnds(namespaces, /*through_nat=*/false);
  REQUIRE_OK(ends);
  Agent::Options options = Options(namespaces, /*allow=*/true);
  options.believe_addresses = false;
  options.offer_deadline = std::chrono::milliseconds(100);
  auto agent = RunningAgent::Start(options);
  REQUIRE_OK(agent);
  auto client = Client::Connect((*agent)->socket());
  REQUIRE_OK(client);

  REQUIRE_OK(client->Offer(1, ends->client.get()));
  REQUIRE_OK(client->Offer(2, ends->server.get()));

  for (int i = 0; i < 2; ++i) {
    auto declined = client->Await<protocol::Declined>();
    REQUIRE_OK(declined);
    CHECK(declined->first.reason == static_cast<uint32_t>(Reason::kNoPeer));
  }
}

TEST_CASE("behind NAT ends are joined by the token of their SYN, and by nothing else", "[netns]") {
  TwoNamespaces namespaces;
  REQUIRE_OK(namespaces.SetUp());
  OwnCgroup cgroup;
  REQUIRE_OK(cgroup.Enter());
  const std::string bpffs = fmt::format("/run/hks{}-bpf", getpid());
  auto tokens = BpfTokens::Attach({.cgroup = cgroup.path(), .bpffs = bpffs});
  if (absl::IsUnimplemented(tokens.status())) {
    WARN("no tokens on this kernel: " << Message(tokens.status()));
    return;
  }
  REQUIRE_OK(tokens);
  Agent::Options options = Options(namespaces, /*allow=*/true);

  SECTION("with tokens") {
    auto ends = MakeEnds(namespaces, /*through_nat=*/true);
    REQUIRE_OK(ends);
    const auto near = (*tokens)->Read(ends->client.get()), far = (*tokens)->Read(ends->server.get());
    CHECK(near.value != 0);
    CHECK(near.value == far.value);
    CHECK(near.connected);
    CHECK_FALSE(far.connected);
    CHECK((*tokens)->Read(ends->listener.get()).value == 0);

    options.tokens = tokens->get();
    auto agent = RunningAgent::Start(options);
    REQUIRE_OK(agent);
    auto client = Client::Connect((*agent)->socket()), server = Client::Connect((*agent)->socket());
    REQUIRE_OK(client);
    REQUIRE_OK(server);
    REQUIRE_OK(server->Offer(1, ends->server.get()));
    REQUIRE_OK(client->Offer(1, ends->client.get()));
    auto paired = client->Await<protocol::Paired>();
    REQUIRE_OK(paired);
    CHECK(paired->first.side == 0);  // the end that connected
    CHECK_OK(server->Await<protocol::Paired>());
    CHECK(json::parse((*agent)->StatusText())["channels"][0]["matched_by"] == "token");
  }
  SECTION("without") {
    auto ends = MakeEnds(namespaces, /*through_nat=*/true);
    REQUIRE_OK(ends);
    options.offer_deadline = std::chrono::milliseconds(100);
    auto agent = RunningAgent::Start(options);
    REQUIRE_OK(agent);
    auto client = Client::Connect((*agent)->socket());
    REQUIRE_OK(client);
    REQUIRE_OK(client->Offer(1, ends->client.get()));
    REQUIRE_OK(client->Offer(2, ends->server.get()));
    auto declined = client->Await<protocol::Declined>();
    REQUIRE_OK(declined);
    CHECK(declined->first.reason == static_cast<uint32_t>(Reason::kNoPeer));
  }
  SECTION("a restarted agent finds the tokens of connections made before") {
    auto ends = MakeEnds(namespaces, /*through_nat=*/true);
    REQUIRE_OK(ends);
    const uint64_t before = (*tokens)->Read(ends->client.get()).value;
    tokens->reset();
    tokens = BpfTokens::Attach({.cgroup = cgroup.path(), .bpffs = bpffs});
    REQUIRE_OK(tokens);
    CHECK((*tokens)->Read(ends->client.get()).value == before);
  }
  SECTION("an agent that is started for another cgroup serves that one") {
    tokens->reset();
    const std::string empty = cgroup.path() + "/empty";
    REQUIRE(std::filesystem::create_directory(empty));
    REQUIRE_OK(BpfTokens::Attach({.cgroup = empty, .bpffs = bpffs + "-2"}));
    tokens = BpfTokens::Attach({.cgroup = cgroup.path(), .bpffs = bpffs + "-2"});
    REQUIRE_OK(tokens);
    BpfTokens::Detach(bpffs);
    auto ends = MakeEnds(namespaces, /*through_nat=*/false);
    REQUIRE_OK(ends);
    CHECK((*tokens)->Read(ends->client.get()).value != 0);
    tokens->reset();
    BpfTokens::Detach(bpffs + "-2");
    std::error_code ignored;
    std::filesystem::remove(bpffs + "-2", ignored);
    std::filesystem::remove(empty, ignored);
  }
  SECTION("data still flows, and other sockets have no token") {
    auto ends = MakeEnds(namespaces, /*through_nat=*/false);
    REQUIRE_OK(ends);
    char byte = 0;
    CHECK(write(ends->client.get(), "x", 1) == 1);
    CHECK(read(ends->server.get(), &byte, 1) == 1);
    CHECK(byte == 'x');
  }
  SECTION("a firewall that drops SYNs with options that it does not know delays a connection and does not prevent it") {
    auto listener = namespaces.Listen();
    REQUIRE_OK(listener);
    REQUIRE_OK(namespaces.DropTokens());
    auto client = namespaces.Connect("10.9.0.2", listener->second);
    REQUIRE_OK(client);
    auto server = AcceptTcp(listener->first.get());
    REQUIRE_OK(server);
    CHECK((*tokens)->Read(server->get()).value == 0);
    CHECK_OK(namespaces.HasDroppedOneToken());
  }
  SECTION("of two agents' programs, both have the same token") {
    const std::string other_bpffs = bpffs + "-other";
    auto others = BpfTokens::Attach({.cgroup = cgroup.path(), .bpffs = other_bpffs});
    REQUIRE_OK(others);
    auto ends = MakeEnds(namespaces, /*through_nat=*/true);
    REQUIRE_OK(ends);
    for (const BpfTokens* each : {tokens->get(), others->get()}) {
      CHECK(each->Read(ends->client.get()).value != 0);
      CHECK(each->Read(ends->client.get()).value == (*tokens)->Read(ends->server.get()).value);
      CHECK(each->Read(ends->server.get()).value == (*tokens)->Read(ends->server.get()).value);
    }
    others->reset();
    BpfTokens::Detach(other_bpffs);
    std::error_code ignored;
    std::filesystem::remove(other_bpffs, ignored);
  }
  tokens->reset();
  BpfTokens::Detach(bpffs);
  std::error_code error;
  std::filesystem::remove(bpffs, error);
}

}  // namespace
}  // namespace heterok8s::heterosock::agent
