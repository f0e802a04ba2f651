// The agent with libraries that are this test, over real TCP connections on loopback: which ends become a channel.
#include "heterosock/agent/agent.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <vector>

#include "common/testing/eventually.h"
#include "common/testing/matchers.h"
#include "heterosock/agent/channel_memory.h"
#include "heterosock/agent/testing/client.h"
#include "heterosock/agent/testing/joined.h"
#include "heterosock/layout/channel.h"

namespace heterok8s::heterosock::agent {
namespace {

using nlohmann::json;
using protocol::Reason;
using namespace testing;

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
  // Who rings can read as well, so ringing raises no signal; and when it is gone the sleeper hears of that.
  CHECK((fcntl(joined->server.second.descriptors[2].get(), F_GETFL) & O_ACCMODE) == O_RDWR);
  joined->server.second.descriptors[2].reset();
  CHECK(poll(&bell, 1, 5000) == 1);
  CHECK((bell.revents & POLLHUP) != 0);
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
  CHECK(declined->first.retry_after_ms == 0);
  CHECK(send(connection->client.get(), "x", 1, 0) == 1);
  const json status = json::parse((*agent)->StatusText());
  CHECK(status["recent_declines"][0]["reason"] == protocol::ReasonText(Reason::kNoPeer));
}

TEST_CASE("two processes that wait with offers of different connections make room for one another's") {
  Agent::Options options = Patient();
  options.max_pending_offers = 4;
  auto agent = RunningAgent::Start(options);
  REQUIRE_OK(agent);
  auto client = Client::Connect((*agent)->socket()), server = Client::Connect((*agent)->socket());
  REQUIRE_OK(client);
  REQUIRE_OK(server);
  REQUIRE_OK(Join(*client, *server));
  std::vector<Connection> connections;
  for (int i = 0; i < 3; ++i) {
    auto connection = MakeConnection();
    REQUIRE_OK(connection);
    connections.push_back(*std::move(connection));
  }

  for (uint64_t i = 0; i < 3; ++i) REQUIRE_OK(client->Offer(10 + i, connections[i].client.get()));
  auto declined = client->Await<protocol::Declined>();

  // The oldest, and not for good: when its turn comes again, the other end may have room for it.
  REQUIRE_OK(declined);
  CHECK(declined->first.offer_id == 10);
  CHECK(declined->first.reason == static_cast<uint32_t>(Reason::kTooManyOffers));
  CHECK(declined->first.retry_after_ms > 0);
  REQUIRE_OK(server->Offer(20, connections[0].server.get()));
  // Else the client's may come first, and the next of its offers makes room for it.
  REQUIRE(heterok8s::testing::Eventually(
      [&] { return json::parse((*agent)->StatusText())["totals"]["waiting_offers"] == 3; }));
  const json processes = json::parse((*agent)->StatusText())["processes"];
  REQUIRE(processes.size() == 2);
  CHECK(processes[0]["waiting_offers"] == 2);
  CHECK(processes[1]["waiting_offers"] == 1);
  CHECK_FALSE(processes[0]["domain"].get<std::string>().empty());
  REQUIRE_OK(client->Offer(13, connections[0].client.get()));
  auto paired = client->Await<protocol::Paired>();
  REQUIRE_OK(paired);
  CHECK(paired->first.offer_id == 13);
}

TEST_CASE("an offer that met no other is worth another try for as long as others of its process meet theirs") {
  auto agent = RunningAgent::Start(Quick());
  REQUIRE_OK(agent);
  auto client = Client::Connect((*agent)->socket()), server = Client::Connect((*agent)->socket());
  REQUIRE_OK(client);
  REQUIRE_OK(server);
  REQUIRE_OK(Join(*client, *server));
  auto connection = MakeConnection();
  REQUIRE_OK(connection);

  std::vector<bool> again;
  for (uint64_t i = 0; i < 3; ++i) {
    REQUIRE_OK(client->Offer(10 + i, connection->client.get()));
    auto declined = client->Await<protocol::Declined>();
    REQUIRE_OK(declined);
    CHECK(declined->first.reason == static_cast<uint32_t>(Reason::kNoPeer));
    again.push_back(declined->first.retry_after_ms > 0);
  }

  // Each pair is good for two, so that what is never met ends.
  CHECK(again == std::vector<bool>{true, true, false});
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

}  // namespace
}  // namespace heterok8s::heterosock::agent
