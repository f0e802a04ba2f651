// The agent while processes, operators and agents come and go.
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "common/testing/matchers.h"
#include "heterosock/agent/agent.h"
#include "heterosock/agent/channel_memory.h"
#include "heterosock/agent/testing/client.h"
#include "heterosock/agent/testing/joined.h"
#include "heterosock/layout/channel.h"

namespace heterok8s::heterosock::agent {
namespace {

using heterok8s::testing::HasCode;
using nlohmann::json;
using protocol::Reason;
using namespace testing;

TEST_CASE("a process that is gone takes its ends along; its channels are forgotten when the other end is done") {
  auto agent = RunningAgent::Start(Patient());
  REQUIRE_OK(agent);
  auto client = Client::Connect((*agent)->socket());
  REQUIRE_OK(client);
  {
    auto server = Client::Connect((*agent)->socket());
    REQUIRE_OK(server);
    REQUIRE_OK(Join(*client, *server));
  }
  CHECK(Becomes(**agent, [](const json& s) { return s["processes"].size() == 1 && s["channels"].size() == 1; }));

  client = absl::InternalError("closed");

  CHECK(Becomes(**agent, ChannelsAre(0)));
}

TEST_CASE("an end that gives its channel up is among those that stayed on TCP, with its reason") {
  auto agent = RunningAgent::Start(Patient());
  REQUIRE_OK(agent);
  auto client = Client::Connect((*agent)->socket()), server = Client::Connect((*agent)->socket());
  REQUIRE_OK(client);
  REQUIRE_OK(server);
  auto joined = Join(*client, *server);
  REQUIRE_OK(joined);

  REQUIRE_OK(client->Release(joined->client.first.channel_id, Reason::kEpoll));
  REQUIRE_OK(server->Release(joined->client.first.channel_id, Reason::kClosed));

  REQUIRE(Becomes(**agent, ChannelsAre(0)));
  const json declines = json::parse((*agent)->StatusText())["recent_declines"];
  REQUIRE(declines.size() == 1);
  CHECK(declines[0]["reason"] == protocol::ReasonText(Reason::kEpoll));
  CHECK(declines[0]["pid"] == getpid());
  CHECK_FALSE(declines[0]["local"].get<std::string>().empty());
}

TEST_CASE("an agent that died is replaced: what libraries hold is counted again") {
  auto agent = RunningAgent::Start(Patient());
  REQUIRE_OK(agent);
  auto client = Client::Connect((*agent)->socket()), server = Client::Connect((*agent)->socket());
  REQUIRE_OK(client);
  REQUIRE_OK(server);
  auto joined = Join(*client, *server);
  REQUIRE_OK(joined);
  agent->reset();
  CHECK_THAT(client->Next().status(), HasCode(absl::StatusCode::kUnavailable));

  agent = RunningAgent::Start(Patient());
  REQUIRE_OK(agent);
  auto again = Client::Connect((*agent)->socket());
  REQUIRE_OK(again);
  const int memory = joined->client.second.descriptors[0].get();
  REQUIRE_OK(again->Resume(joined->client.first, joined->connection.client.get(), memory));
  CHECK(Becomes(**agent, ChannelsAre(1)));
  const json status = json::parse((*agent)->StatusText());
  CHECK(status["channels"][0]["channel"] == joined->client.first.channel_id);
  CHECK(status["domains"][0]["channels"] == 1);

  SECTION("its end is released") {
    REQUIRE_OK(again->Release(joined->client.first.channel_id, Reason::kClosed));
    CHECK(Becomes(**agent, ChannelsAre(0)));
  }
  SECTION("memory of another channel does not pass for it") {
    protocol::Paired forged = joined->client.first;
    forged.nonce ^= 1;
    auto liar = Client::Connect((*agent)->socket());
    REQUIRE_OK(liar);
    REQUIRE_OK(liar->Resume(forged, joined->connection.client.get(), memory));
    CHECK_THAT(liar->Next().status(), HasCode(absl::StatusCode::kUnavailable));
  }
  SECTION("something that is no memory does not either") {
    auto liar = Client::Connect((*agent)->socket());
    REQUIRE_OK(liar);
    REQUIRE_OK(liar->Resume(joined->client.first, joined->connection.client.get(), joined->connection.server.get()));
    CHECK_THAT(liar->Next().status(), HasCode(absl::StatusCode::kUnavailable));
  }
}

TEST_CASE("what libraries resume is bounded as what they offer is, and what cannot be counted goes back to TCP") {
  Agent::Options options = Patient();
  options.credits.channels = 2;
  auto agent = RunningAgent::Start(options);
  REQUIRE_OK(agent);
  auto client = Client::Connect((*agent)->socket());
  REQUIRE_OK(client);

  std::vector<Connection> connections;
  uint32_t flags = 0;
  sys::UniqueFd last;
  for (uint64_t id = 1; id <= 3; ++id) {
    auto connection = MakeConnection();
    auto parts = MakeChannel({.id = id, .epoch = 7, .nonce = id}, options.ring_bytes);
    REQUIRE_OK(connection);
    REQUIRE_OK(parts);
    protocol::Paired held = protocol::Make<protocol::Paired>();
    held.channel_id = held.nonce = id;
    held.epoch = 7;
    REQUIRE_OK(client->Resume(held, parts->memory.get(), parts->memory.get()));  // no connection: not counted
    REQUIRE_OK(client->Resume(held, connection->client.get(), parts->memory.get()));
    connections.push_back(*std::move(connection));
    last = std::move(parts->memory);
  }

  auto fence = client->Await<protocol::Fence>();
  REQUIRE_OK(fence);
  CHECK(fence->first.channel_id == 3);
  const json status = json::parse((*agent)->StatusText());  // behind all that the agent does with a RESUME
  constexpr size_t kFlags =
      offsetof(layout::ChannelPage, side) + offsetof(layout::SideLines, wait) + offsetof(layout::WaitLine, flags);
  CHECK(pread(last.get(), &flags, sizeof flags, kFlags) == sizeof flags);
  CHECK(flags == layout::kFlagWantTcp);
  CHECK(status["channels"].size() == 2);
  CHECK(status["domains"][0]["channels"] == 2);
}

TEST_CASE(
    "what a library of another version holds goes back to TCP when the agent is replaced, and the library stays") {
  auto agent = RunningAgent::Start(Patient());
  auto connection = MakeConnection();
  auto parts = MakeChannel({.id = 5, .epoch = 7, .nonce = 9}, 65536);
  REQUIRE_OK(agent);
  REQUIRE_OK(connection);
  REQUIRE_OK(parts);
  auto client = Client::Connect((*agent)->socket());
  REQUIRE_OK(client);
  protocol::Paired held = protocol::Make<protocol::Paired>();
  held.channel_id = 5;
  held.epoch = 7;
  held.nonce = 9;
  const uint32_t version = layout::kChannelVersion + GENERATE(-1, 1);
  REQUIRE(pwrite(parts->memory.get(), &version, sizeof version, offsetof(layout::ChannelHeader, version)) ==
          sizeof version);

  REQUIRE_OK(client->Resume(held, connection->client.get(), parts->memory.get()));

  auto fence = client->Await<protocol::Fence>();
  REQUIRE_OK(fence);
  CHECK(fence->first.channel_id == 5);
  CHECK(fence->first.reason == static_cast<uint32_t>(Reason::kVersion));
  const json status = json::parse((*agent)->StatusText());
  CHECK(status["channels"].empty());
  REQUIRE_OK(client->Release(5, Reason::kVersion));
  auto server = Client::Connect((*agent)->socket());
  REQUIRE_OK(server);
  REQUIRE_OK(Join(*client, *server));
}

TEST_CASE("a channel of which one end is counted again stays when the policy is read again") {
  auto agent = RunningAgent::Start(Patient());
  auto connection = MakeConnection();
  REQUIRE_OK(agent);
  REQUIRE_OK(connection);
  auto client = Client::Connect((*agent)->socket());
  auto parts = MakeChannel({.id = 1, .epoch = 7, .nonce = 1}, Patient().ring_bytes);
  REQUIRE_OK(client);
  REQUIRE_OK(parts);
  protocol::Paired held = protocol::Make<protocol::Paired>();
  held.channel_id = held.nonce = 1;
  held.epoch = 7;
  REQUIRE_OK(client->Resume(held, connection->client.get(), parts->memory.get()));
  REQUIRE(Becomes(**agent, ChannelsAre(1)));

  (*agent)->agent().Post([](Agent& a) { a.SetPolicy(Policy()); });

  CHECK(json::parse((*agent)->StatusText())["totals"]["fences"] == 0);
}

TEST_CASE("nobody resumes the end of somebody else") {
  auto agent = RunningAgent::Start(Patient());
  REQUIRE_OK(agent);
  auto client = Client::Connect((*agent)->socket()), server = Client::Connect((*agent)->socket());
  REQUIRE_OK(client);
  REQUIRE_OK(server);
  auto joined = Join(*client, *server);
  REQUIRE_OK(joined);
  const json before = json::parse((*agent)->StatusText());
  auto other = MakeConnection();
  REQUIRE_OK(other);
  const bool own_socket = GENERATE(false, true);

  const int socket = own_socket ? joined->connection.server.get() : other->client.get();
  REQUIRE_OK(server->Resume(joined->client.first, socket, joined->client.second.descriptors[0].get()));

  auto fence = server->Await<protocol::Fence>();
  REQUIRE_OK(fence);
  CHECK(fence->first.channel_id == joined->client.first.channel_id);
  const json after = json::parse((*agent)->StatusText());
  CHECK(after["channels"][0]["ends"] == before["channels"][0]["ends"]);
  // The client's end is nobody else's to hold.
  REQUIRE_OK(client->Release(joined->client.first.channel_id, Reason::kClosed));
  const int side = joined->client.first.side;
  CHECK(Becomes(**agent, [side](const json& s) { return s["channels"][0]["ends"][side]["alive"] == false; }));
}

TEST_CASE("two agents, one after the other, give no two channels the same number") {
  auto agent = RunningAgent::Start(Patient());
  REQUIRE_OK(agent);
  std::set<uint64_t> numbers;
  for (int life = 0; life < 2; ++life) {
    if (life == 1) agent = RunningAgent::Start(Patient());
    REQUIRE_OK(agent);
    auto client = Client::Connect((*agent)->socket()), server = Client::Connect((*agent)->socket());
    REQUIRE_OK(client);
    REQUIRE_OK(server);
    auto joined = Join(*client, *server);
    REQUIRE_OK(joined);
    numbers.insert(joined->client.first.channel_id);
  }

  CHECK(numbers.size() == 2);
}

TEST_CASE("an operator sees who talks over what, and has it go back to TCP") {
  Agent::Options options = Patient();
  const std::string folder = MakeFolder();
  options.admin = folder + "/admin.sock";
  auto agent = RunningAgent::Start(options);
  REQUIRE_OK(agent);
  auto client = Client::Connect((*agent)->socket()), server = Client::Connect((*agent)->socket());
  REQUIRE_OK(client);
  REQUIRE_OK(server);
  auto joined = Join(*client, *server);
  REQUIRE_OK(joined);

  const json status = json::parse(Ask(options.admin, "{\"command\":\"status\"}\n"));
  REQUIRE(status["channels"].size() == 1);
  CHECK(status["channels"][0]["ends"][0]["pid"] == getpid());
  CHECK(status["channels"][0]["matched_by"] == "addresses");
  CHECK(status["channels"][0]["ends"][0]["sending_on"] == "TCP");
  CHECK(status["processes"].size() == 2);

  CHECK(json::parse(Ask(options.admin, "{\"command\":\"fence\"}\n"))["fenced"] == 1);
  for (Client* end : {&*client, &*server}) {
    auto fence = end->Await<protocol::Fence>();
    REQUIRE_OK(fence);
    CHECK(fence->first.reason == static_cast<uint32_t>(Reason::kOperator));
    CHECK(fence->first.channel_id == joined->client.first.channel_id);
  }
  CHECK(json::parse(Ask(options.admin, "{\"command\":\"fence\",\"pid\":1}\n"))["fenced"] == 0);
  CHECK(json::parse(Ask(options.admin, "{\"command\":\"fence\",\"pid\":\"x\"}\n")).contains("error"));
  // A forked worker that has the connection now.
  const pid_t worker = fork();
  if (worker == 0) {
    auto child = Client::Connect((*agent)->socket());
    const bool held =
        child.ok() &&
        child->Resume(joined->server.first, joined->connection.server.get(), joined->server.second.descriptors[0].get())
            .ok();
    if (held) pause();
    _exit(1);
  }
  const auto fences = [&] {
    const std::string request = fmt::format("{{\"command\":\"fence\",\"pid\":{}}}\n", worker);
    return json::parse(Ask(options.admin, request))["fenced"] == 1;
  };
  CHECK(Becomes(**agent, [&](const json& s) { return s["totals"]["resumes"] == 1 && fences(); }));
  kill(worker, SIGKILL);
  waitpid(worker, nullptr, 0);
  for (const char* number : {"-1", "1e300", "-0.5", "18446744073709551616"}) {  // 0 would be all of them
    INFO(number);
    const json answer =
        json::parse(Ask(options.admin, fmt::format("{{\"command\":\"fence\",\"channel\":{}}}\n", number)));
    CHECK(answer["error"].dump().find("'channel' must be a whole number") != std::string::npos);
  }
  CHECK(json::parse(Ask(options.admin, "nonsense\n")).contains("error"));
  CHECK(json::parse(Ask(options.admin, "{\"command\":\"?\"}\n")).contains("error"));
  agent->reset();
  rmdir(folder.c_str());
}

TEST_CASE("an operator has everything stay on TCP, until he says otherwise") {
  Agent::Options options = Patient();
  const std::string folder = MakeFolder();
  options.admin = folder + "/admin.sock";
  auto agent = RunningAgent::Start(options);
  REQUIRE_OK(agent);
  auto client = Client::Connect((*agent)->socket()), server = Client::Connect((*agent)->socket());
  REQUIRE_OK(client);
  REQUIRE_OK(server);
  auto joined = Join(*client, *server);
  REQUIRE_OK(joined);
  auto waiting = MakeConnection();
  REQUIRE_OK(waiting);
  REQUIRE_OK(client->Offer(7, waiting->client.get()));
  REQUIRE(Becomes(**agent, [](const json& s) { return s["totals"]["waiting_offers"] == 1; }));
  const auto is_declined = [](Client& end, uint64_t offer) {
    auto declined = end.Await<protocol::Declined>();
    REQUIRE_OK(declined);
    CHECK(declined->first.offer_id == offer);
    CHECK(declined->first.reason == static_cast<uint32_t>(Reason::kOperator));
    CHECK(declined->first.retry_after_ms > 0);
  };
  const auto is_fenced = [&](Client& end) {
    auto fence = end.Await<protocol::Fence>();
    REQUIRE_OK(fence);
    CHECK(fence->first.channel_id == joined->client.first.channel_id);
    CHECK(fence->first.reason == static_cast<uint32_t>(Reason::kOperator));
  };

  CHECK(json::parse(Ask(options.admin, "{\"command\":\"fence\",\"pid\":1,\"stay\":true}\n")).contains("error"));
  CHECK(json::parse((*agent)->StatusText())["totals"]["stays_on_tcp"] == false);
  const json answer = json::parse(Ask(options.admin, "{\"command\":\"fence\",\"stay\":true}\n"));

  CHECK(answer == json{{"fenced", 1}, {"stays_on_tcp", true}});
  is_declined(*client, 7);
  is_fenced(*client);
  is_fenced(*server);
  REQUIRE_OK(client->Offer(8, waiting->client.get()));
  is_declined(*client, 8);
  REQUIRE_OK(server->Offer(8, waiting->server.get()));
  is_declined(*server, 8);
  // A process that the agent hears of only now.
  auto third = Client::Connect((*agent)->socket());
  REQUIRE_OK(third);
  REQUIRE_OK(
      third->Resume(joined->server.first, joined->connection.server.get(), joined->server.second.descriptors[0].get()));
  is_fenced(*third);
  const json status = json::parse((*agent)->StatusText());
  CHECK(status["totals"]["stays_on_tcp"] == true);
  CHECK(status["totals"]["waiting_offers"] == 0);
  CHECK(status["totals"]["pairs"] == 1);

  CHECK(json::parse(Ask(options.admin, "{\"command\":\"resume\"}\n")) == json{{"stays_on_tcp", false}});
  is_fenced(*client);  // as the third was
  is_fenced(*server);
  CHECK_OK(Join(*client, *server, 9));
  agent->reset();
  rmdir(folder.c_str());
}

TEST_CASE("a second agent does not take the socket of one that lives, and does take it from one that died") {
  auto agent = RunningAgent::Start(Patient());
  REQUIRE_OK(agent);
  Agent::Options second = Patient();
  second.socket = (*agent)->socket();
  CHECK_THAT(Agent::Start(second).status(), HasCode(absl::StatusCode::kFailedPrecondition));

  const std::string folder = MakeFolder();
  second.socket = folder + "/agent.sock";
  {
    // A socket file with nobody behind it.
    sys::UniqueFd dead(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    sockaddr_un name{.sun_family = AF_UNIX};
    second.socket.copy(name.sun_path, sizeof name.sun_path - 1);
    REQUIRE(bind(dead.get(), reinterpret_cast<sockaddr*>(&name), sizeof name) == 0);
  }
  CHECK_OK(Agent::Start(second));
  rmdir(folder.c_str());
}

}  // namespace
}  // namespace heterok8s::heterosock::agent
