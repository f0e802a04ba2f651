// The agent with libraries that are this test, over real TCP connections on loopback.
#include "heterosock/agent/agent.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>

#include "common/testing/matchers.h"
#include "heterosock/agent/channel_memory.h"
#include "heterosock/agent/testing/client.h"
#include "heterosock/layout/channel.h"

namespace heterok8s::heterosock::agent {
namespace {

using heterok8s::testing::HasCode;
using nlohmann::json;
using protocol::Reason;
using namespace testing;

Agent::Options Quick() {
  Agent::Options options;
  options.ring_bytes = 65536;
  options.offer_deadline = std::chrono::milliseconds(100);
  return options;
}

// Patient: for tests in which the other end does come.
Agent::Options Patient() {
  Agent::Options options = Quick();
  options.offer_deadline = kPatience;
  return options;
}

// Waits until the agent's status is as wanted; it learns of closed sockets when it gets to them.
template <typename Wanted>
bool Becomes(RunningAgent& agent, Wanted wanted) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < end) {
    if (wanted(json::parse(agent.StatusText()))) return true;
    poll(nullptr, 0, 5);
  }
  return false;
}

auto ChannelsAre(size_t count) {
  return [count](const json& status) { return status["channels"].size() == count; };
}

struct Joined {
  Connection connection;
  std::pair<protocol::Paired, Packet> client, server;
};
absl::StatusOr<Joined> Join(Client& client, Client& server, uint64_t offer_id = 1,
                            const std::string& address = "127.0.0.1") {
  Joined joined;
  HK_ASSIGN_OR_RETURN(joined.connection, MakeConnection(address));
  HK_RETURN_IF_ERROR(client.Offer(offer_id, joined.connection.client.get()));
  HK_RETURN_IF_ERROR(server.Offer(offer_id, joined.connection.server.get()));
  HK_ASSIGN_OR_RETURN(joined.client, client.Await<protocol::Paired>());
  HK_ASSIGN_OR_RETURN(joined.server, server.Await<protocol::Paired>());
  return joined;
}

TEST_CASE("two ends of one connection get the same memory and each other's bells") {
  auto agent = RunningAgent::Start(Patient());
  REQUIRE_OK(agent);
  auto client = Client::Connect((*agent)->socket()), server = Client::Connect((*agent)->socket());
  REQUIRE_OK(client);
  REQUIRE_OK(server);

  auto joined = Join(*client, *server);

  REQUIRE_OK(joined);
  const protocol::Paired &a = joined->client.first, &b = joined->server.first;
  CHECK(a.channel_id == b.channel_id);
  CHECK(a.nonce == b.nonce);
  CHECK(a.side + b.side == 1);
  CHECK(a.memory_bytes == layout::ChannelBytes(65536));
  CHECK_OK(CheckChannel(joined->client.second.descriptors[0].get(),
                        {.id = a.channel_id, .epoch = a.epoch, .nonce = a.nonce}));
  // What one end writes the other reads, and nobody can shrink it.
  const uint64_t word = 0x1234;
  uint64_t read = 0;
  const int memory = joined->client.second.descriptors[0].get(), other = joined->server.second.descriptors[0].get();
  CHECK(pwrite(memory, &word, sizeof word, 65536) == sizeof word);
  CHECK(pread(other, &read, sizeof read, 65536) == sizeof read);
  CHECK(read == word);
  CHECK(ftruncate(memory, 4096) != 0);
  // The client rings, the server's own bell sounds.
  CHECK(write(joined->client.second.descriptors[2].get(), &word, 8) == 8);
  pollfd bell{joined->server.second.descriptors[1].get(), POLLIN, 0};
  CHECK(poll(&bell, 1, 0) == 1);
  bell.fd = joined->client.second.descriptors[1].get();
  CHECK(poll(&bell, 1, 0) == 0);
}

TEST_CASE("IPv6, and an IPv4 end in an IPv6 socket, are paired as well") {
  auto agent = RunningAgent::Start(Patient());
  REQUIRE_OK(agent);
  auto client = Client::Connect((*agent)->socket()), server = Client::Connect((*agent)->socket());
  REQUIRE_OK(client);
  REQUIRE_OK(server);

  CHECK_OK(Join(*client, *server, 1, "::1"));

  auto listener = ListenTcp("::");
  REQUIRE_OK(listener);
  auto near = ConnectTcp("127.0.0.1", listener->second);
  REQUIRE_OK(near);
  auto far = AcceptTcp(listener->first.get());
  REQUIRE_OK(far);
  REQUIRE_OK(client->Offer(2, near->get()));
  REQUIRE_OK(server->Offer(2, far->get()));
  CHECK_OK(client->Await<protocol::Paired>());
}

TEST_CASE("the agent keeps no copy of an offered socket: the end of the stream arrives") {
  auto agent = RunningAgent::Start(Patient());
  REQUIRE_OK(agent);
  auto client = Client::Connect((*agent)->socket());
  REQUIRE_OK(client);
  auto connection = MakeConnection();
  REQUIRE_OK(connection);

  REQUIRE_OK(client->Offer(1, connection->client.get()));
  connection->client.reset();

  char byte;
  pollfd p{connection->server.get(), POLLIN, 0};
  CHECK(poll(&p, 1, 20000) == 1);
  CHECK(recv(connection->server.get(), &byte, 1, 0) == 0);
}

TEST_CASE("an offer whose other end has no library is declined, and the socket is as it was") {
  auto agent = RunningAgent::Start(Quick());
  REQUIRE_OK(agent);
  auto client = Client::Connect((*agent)->socket());
  REQUIRE_OK(client);
  auto connection = MakeConnection();
  REQUIRE_OK(connection);

  REQUIRE_OK(client->Offer(9, connection->client.get()));
  auto declined = client->Await<protocol::Declined>();

  REQUIRE_OK(declined);
  CHECK(declined->first.offer_id == 9);
  CHECK(declined->first.reason == static_cast<uint32_t>(Reason::kNoPeer));
  CHECK(send(connection->client.get(), "x", 1, 0) == 1);
  const json status = json::parse((*agent)->StatusText());
  CHECK(status["recent_declines"][0]["reason"] == protocol::ReasonText(Reason::kNoPeer));
}

TEST_CASE("what is no connected TCP socket is declined at once") {
  auto agent = RunningAgent::Start(Patient());
  REQUIRE_OK(agent);
  auto client = Client::Connect((*agent)->socket());
  REQUIRE_OK(client);
  auto listener = ListenTcp("127.0.0.1");
  REQUIRE_OK(listener);
  sys::UniqueFd udp(socket(AF_INET, SOCK_DGRAM, 0)), file(open("/dev/null", O_RDONLY));

  for (int fd : {listener->first.get(), udp.get(), file.get()}) {
    REQUIRE_OK(client->Offer(1, fd));
    auto declined = client->Await<protocol::Declined>();
    REQUIRE_OK(declined);
    CHECK(declined->first.reason == static_cast<uint32_t>(Reason::kNotTcp));
  }
}

TEST_CASE("a broken message drops its sender and nobody else") {
  auto agent = RunningAgent::Start(Patient());
  REQUIRE_OK(agent);
  auto good = Client::Connect((*agent)->socket()), bad = Client::Connect((*agent)->socket());
  REQUIRE_OK(good);
  REQUIRE_OK(bad);
  auto connection = MakeConnection();
  REQUIRE_OK(connection);
  auto joined = Join(*good, *bad);
  REQUIRE_OK(joined);

  SECTION("bytes that are no message") { REQUIRE_OK(bad->SendBytes(std::string(24, '\xff'), {})); }
  SECTION("a packet that is too long") { REQUIRE_OK(bad->SendBytes(std::string(500, 'x'), {})); }
  SECTION("an offer with two sockets") {
    protocol::Offer offer = protocol::Make<protocol::Offer>();
    offer.offer_id = 5;
    REQUIRE_OK(bad->SendBytes(std::string(reinterpret_cast<char*>(&offer), sizeof offer),
                              {connection->client.get(), connection->server.get()}));
  }
  SECTION("a message of the other direction") {
    protocol::Fence fence = protocol::Make<protocol::Fence>();
    REQUIRE_OK(bad->SendBytes(std::string(reinterpret_cast<char*>(&fence), sizeof fence), {}));
  }
  SECTION("more descriptors than any message has") {
    std::vector<int> many(12, connection->client.get());
    REQUIRE_OK(bad->SendBytes(std::string(16, 'x'), many));
  }
  CHECK_THAT(bad->Next().status(), HasCode(absl::StatusCode::kUnavailable));
  CHECK(json::parse((*agent)->StatusText())["totals"]["malformed"] == 1);
  // Half of the channel is left, with the good one.
  CHECK(Becomes(**agent, [](const json& s) { return s["channels"].size() == 1 && s["processes"].size() == 1; }));
  auto again = Client::Connect((*agent)->socket());
  REQUIRE_OK(again);
  CHECK_OK(Join(*good, *again, 2));
}

TEST_CASE("an offer before HELLO is no offer") {
  auto agent = RunningAgent::Start(Patient());
  REQUIRE_OK(agent);
  auto rude = Client::ConnectSilently((*agent)->socket());
  REQUIRE_OK(rude);
  auto connection = MakeConnection();
  REQUIRE_OK(connection);

  REQUIRE_OK(rude->Offer(1, connection->client.get()));

  CHECK_THAT(rude->Next().status(), HasCode(absl::StatusCode::kUnavailable));
}

TEST_CASE("a library of another protocol version is refused and told which would do") {
  auto agent = RunningAgent::Start(Patient());
  REQUIRE_OK(agent);
  auto client = Client::ConnectSilently((*agent)->socket());
  REQUIRE_OK(client);
  protocol::Hello hello = protocol::Make<protocol::Hello>();
  hello.version_min = hello.version_max = 99;

  REQUIRE_OK(client->SendBytes(std::string(reinterpret_cast<char*>(&hello), sizeof hello), {}));
  auto refused = client->Await<protocol::Refused>();

  REQUIRE_OK(refused);
  CHECK(refused->first.reason == static_cast<uint32_t>(Reason::kVersion));
  CHECK(refused->first.version_max == protocol::kVersion);
}

TEST_CASE("limits hold: offers without an answer, channels of a domain, processes") {
  Agent::Options options = Patient();
  options.max_pending_offers = 2;
  options.credits.channels = 1;
  options.max_processes = 2;
  auto agent = RunningAgent::Start(options);
  REQUIRE_OK(agent);
  auto client = Client::Connect((*agent)->socket()), server = Client::Connect((*agent)->socket());
  REQUIRE_OK(client);
  REQUIRE_OK(server);

  auto third = Client::ConnectSilently((*agent)->socket());
  REQUIRE_OK(third);
  auto refused = third->Await<protocol::Refused>();
  REQUIRE_OK(refused);
  CHECK(refused->first.reason == static_cast<uint32_t>(Reason::kTooManyProcesses));

  auto first = Join(*client, *server);
  REQUIRE_OK(first);
  auto second = MakeConnection();
  REQUIRE_OK(second);
  REQUIRE_OK(client->Offer(2, second->client.get()));
  REQUIRE_OK(server->Offer(2, second->server.get()));
  for (Client* end : {&*client, &*server}) {
    auto declined = end->Await<protocol::Declined>();
    REQUIRE_OK(declined);
    CHECK(declined->first.reason == static_cast<uint32_t>(Reason::kExhausted));
    CHECK(declined->first.retry_after_ms > 0);
  }

  std::vector<Connection> waiting;
  for (uint64_t i = 0; i < 3; ++i) {
    auto connection = MakeConnection();
    REQUIRE_OK(connection);
    REQUIRE_OK(client->Offer(10 + i, connection->client.get()));
    waiting.push_back(*std::move(connection));
  }
  auto declined = client->Await<protocol::Declined>();
  REQUIRE_OK(declined);
  CHECK(declined->first.offer_id == 12);
  CHECK(declined->first.reason == static_cast<uint32_t>(Reason::kTooManyOffers));

  // Credits come back when both ends are done.
  const uint64_t channel = first->client.first.channel_id;
  REQUIRE_OK(client->Release(channel, Reason::kClosed));
  REQUIRE_OK(server->Release(channel, Reason::kClosed));
  CHECK(Becomes(**agent, ChannelsAre(0)));
  CHECK(json::parse((*agent)->StatusText())["domains"].empty());
}

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

TEST_CASE("a process connected to itself holds both ends and releases each") {
  auto agent = RunningAgent::Start(Patient());
  REQUIRE_OK(agent);
  auto both = Client::Connect((*agent)->socket());
  REQUIRE_OK(both);
  auto connection = MakeConnection();
  REQUIRE_OK(connection);

  REQUIRE_OK(both->Offer(1, connection->client.get()));
  REQUIRE_OK(both->Offer(2, connection->server.get()));
  auto first = both->Await<protocol::Paired>();
  REQUIRE_OK(first);
  REQUIRE_OK(both->Await<protocol::Paired>());

  REQUIRE_OK(both->Release(first->first.channel_id, Reason::kClosed));
  CHECK(Becomes(**agent, [](const json& s) { return s["totals"]["releases"] == 1; }));
  CHECK(json::parse((*agent)->StatusText())["channels"].size() == 1);
  REQUIRE_OK(both->Release(first->first.channel_id, Reason::kClosed));
  CHECK(Becomes(**agent, ChannelsAre(0)));
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

// Messages with the right sizes and types but any content, with descriptors of any kind.
TEST_CASE("libraries that say anything at all harm nobody else") {
  auto agent = RunningAgent::Start(Quick());
  REQUIRE_OK(agent);
  std::mt19937_64 random(GENERATE(1, 2, 3));
  auto connection = MakeConnection();
  REQUIRE_OK(connection);
  sys::UniqueFd file(open("/dev/zero", O_RDWR));
  auto bell = MakeBell();
  REQUIRE_OK(bell);
  const int things[] = {connection->client.get(), connection->server.get(), file.get(), bell->sleeper.get(),
                        bell->ringer.get()};

  for (int round = 0; round < 100; ++round) {
    auto hostile = Client::Connect((*agent)->socket());
    REQUIRE_OK(hostile);
    for (int i = 0; i < 30; ++i) {
      constexpr size_t kSizes[] = {sizeof(protocol::Offer), sizeof(protocol::Withdraw), sizeof(protocol::Release),
                                   sizeof(protocol::Resume), sizeof(protocol::Hello)};
      std::string bytes(kSizes[random() % std::size(kSizes)], '\0');
      const protocol::Header header{.type = static_cast<uint16_t>(1 + random() % 5),
                                    .size = static_cast<uint16_t>(bytes.size())};
      memcpy(bytes.data(), &header, sizeof header);
      // Small numbers: some of them are ids that exist.
      for (size_t at = sizeof header; at < bytes.size(); at += 8) bytes[at] = static_cast<char>(random() % 4);
      std::vector<int> descriptors;
      for (uint64_t n = random() % 4; n > 0; --n) descriptors.push_back(things[random() % std::size(things)]);
      if (!hostile->SendBytes(bytes, descriptors).ok()) break;  // it was dropped
    }
  }

  auto client = Client::Connect((*agent)->socket()), server = Client::Connect((*agent)->socket());
  REQUIRE_OK(client);
  REQUIRE_OK(server);
  CHECK(Becomes(**agent, [](const json& s) {
    return s["processes"].size() == 2 && s["channels"].empty() && s["totals"]["waiting_offers"] == 0;
  }));
  CHECK_OK(Join(*client, *server));
}

std::string Ask(const std::string& path, const std::string& request) {
  auto fd = ConnectUnix(path, SOCK_STREAM);
  if (!fd.ok() || send(fd->get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return "";
  std::string answer;
  char buffer[4096];
  pollfd p{fd->get(), POLLIN, 0};
  while (poll(&p, 1, 20000) == 1) {
    const ssize_t got = recv(fd->get(), buffer, sizeof buffer, 0);
    if (got <= 0) break;
    answer.append(buffer, static_cast<size_t>(got));
  }
  return answer;
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
  CHECK(json::parse(Ask(options.admin, "nonsense\n")).contains("error"));
  CHECK(json::parse(Ask(options.admin, "{\"command\":\"?\"}\n")).contains("error"));
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
