// The agent against libraries that break the protocol or want too much, over real TCP connections on loopback.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>

#include "common/testing/matchers.h"
#include "heterosock/agent/agent.h"
#include "heterosock/agent/channel_memory.h"
#include "heterosock/agent/packet.h"
#include "heterosock/agent/testing/client.h"
#include "heterosock/agent/testing/joined.h"
#include "heterosock/layout/channel.h"

namespace heterok8s::heterosock::agent {
namespace {

using heterok8s::testing::HasCode;
using nlohmann::json;
using protocol::Reason;
using namespace testing;

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

TEST_CASE("a socket that lingers stops nobody, whatever packet brings it") {
  Agent::Options options = Patient();
  options.max_processes = 3;
  auto agent = RunningAgent::Start(options);
  REQUIRE_OK(agent);
  auto good = Client::Connect((*agent)->socket()), again = Client::Connect((*agent)->socket());
  REQUIRE_OK(good);
  REQUIRE_OK(again);
  auto bad = Client::ConnectSilently((*agent)->socket());
  REQUIRE_OK(bad);
  auto connection = MakeLingering();
  REQUIRE_OK(connection);
  const int socket = connection->client.get();
  const sys::UniqueFd nothing(open("/dev/null", O_RDONLY | O_CLOEXEC));

  // All of it is there, and the agent its only holder, before it looks.
  auto held = (*agent)->Hold();
  std::optional<Client> refused;
  SECTION("a packet that is no message") { REQUIRE_OK(bad->SendBytes(std::string(24, 'x'), {socket})); }
  SECTION("a packet that is too long") { REQUIRE_OK(bad->SendBytes(std::string(300, 'x'), {socket})); }
  SECTION("an empty packet") { REQUIRE_OK(bad->SendBytes("", {socket})); }
  SECTION("more descriptors than any message has") {
    REQUIRE_OK(
        bad->SendBytes(std::string(24, 'x'), {nothing.get(), nothing.get(), nothing.get(), nothing.get(), socket}));
  }
  SECTION("behind a packet that is no message") {
    REQUIRE_OK(bad->SendBytes(std::string(24, 'x'), {}));
    REQUIRE_OK(bad->SendBytes(std::string(24, 'x'), {socket}));
  }
  SECTION("of a process that is not served") {
    REQUIRE_OK(bad->SendBytes(std::string(24, 'x'), {}));
    auto third = Client::ConnectSilently((*agent)->socket());
    REQUIRE_OK(third);
    REQUIRE_OK(third->SendBytes(std::string(24, 'x'), {socket}));
    refused = *std::move(third);
  }
  connection->client.reset();
  held.reset();

  CHECK_OK(Join(*good, *again));
  CHECK(json::parse((*agent)->StatusText()).contains("totals"));
}

TEST_CASE("a library is not called broken when the agent is out of descriptors") {
  auto agent = RunningAgent::Start(Patient());
  REQUIRE_OK(agent);
  auto client = Client::Connect((*agent)->socket());
  REQUIRE_OK(client);
  auto connection = MakeConnection();
  REQUIRE_OK(connection);
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);

  {
    const rlimit none{.rlim_cur = 3, .rlim_max = files.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
    REQUIRE_OK(client->Offer(1, connection->client.get()));
    CHECK_THAT(client->Next().status(), HasCode(absl::StatusCode::kUnavailable));
    setrlimit(RLIMIT_NOFILE, &files);
  }

  CHECK(json::parse((*agent)->StatusText())["totals"]["malformed"] == 0);
  auto again = Client::Connect((*agent)->socket()), other = Client::Connect((*agent)->socket());
  REQUIRE_OK(again);
  REQUIRE_OK(other);
  CHECK_OK(Join(*again, *other));
}

TEST_CASE("a container gets no answer from the admin socket") {
  Agent::Options options = Patient();
  const std::string folder = MakeFolder();
  options.admin = folder + "/admin.sock";
  auto agent = RunningAgent::Start(options);
  REQUIRE_OK(agent);
  // What the agent says to a child, in a PID namespace of its own or not, by its exit status.
  const auto answers = [&](bool contained) {
    const pid_t child = fork();
    if (child == 0) {
      if (contained && unshare(CLONE_NEWPID) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWPID) != 0) _exit(77);
      const pid_t within = fork();
      if (within == 0) {
        sockaddr_un address = {.sun_family = AF_UNIX};
        strncpy(address.sun_path, options.admin.c_str(), sizeof address.sun_path - 1);
        const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        constexpr char kStatus[] = "{\"command\": \"status\"}\n";
        char answer[16] = {};
        if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) _exit(2);
        (void)!write(fd, kStatus, sizeof kStatus - 1);
        if (recv(fd, answer, 8, MSG_WAITALL) != 8) _exit(3);
        _exit(strcmp(answer, "{\"error\"") == 0 ? 1 : 0);
      }
      int status = 0;
      waitpid(within, &status, 0);
      _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 4);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 5;
  };

  const int container = answers(true);
  CHECK(answers(false) == 0);
  if (container == 77) {
    WARN("SKIPPED: no PID namespace can be made here");
  } else {
    CHECK(container == 1);
  }
  agent->reset();
  rmdir(folder.c_str());
}

TEST_CASE("a number that its field does not hold ends the link with the other PU") {
  Agent::Options options = Patient();
  const std::string folder = MakeFolder();
  options.pu_listen = folder + "/pu.sock";
  auto agent = RunningAgent::Start(options);
  REQUIRE_OK(agent);
  const auto send = [&](const std::string& session) {
    auto link = ConnectUnix(options.pu_listen, SOCK_SEQPACKET);
    REQUIRE_OK(link);
    const std::string text = fmt::format(R"({{"v":1,"t":"withdraw","name":{{"s":{},"o":1}}}})", session);
    REQUIRE(SendPacket(link->get(), text, {}) == Sent::kSent);
    return *std::move(link);
  };
  const auto joined = [](const json& status) { return status["totals"]["pu_link"].get<bool>(); };

  for (const char* wrong : {"65536.46", "1e300", "-1", "18446744073709551616", "\"1\""}) {
    INFO(wrong);
    const sys::UniqueFd link = send(wrong);
    pollfd p{link.get(), POLLIN, 0};
    REQUIRE(poll(&p, 1, 60000) == 1);
    char byte;
    CHECK(recv(link.get(), &byte, 1, 0) == 0);
  }
  const sys::UniqueFd link = send("18446744073709551615");
  CHECK(Becomes(**agent, joined));
  agent->reset();
  rmdir(folder.c_str());
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

TEST_CASE("a library of another protocol version is refused, told which would do, and may ask the next agent") {
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
  CHECK(refused->first.retry_after_ms != 0);
}

TEST_CASE("limits hold: offers without an answer") {
  Agent::Options options = Patient();
  options.max_pending_offers = 2;
  auto agent = RunningAgent::Start(options);
  REQUIRE_OK(agent);
  auto client = Client::Connect((*agent)->socket());
  REQUIRE_OK(client);

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
}

TEST_CASE("limits hold: channels of a domain, processes") {
  Agent::Options options = Patient();
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

  // Credits come back when both ends are done.
  const uint64_t channel = first->client.first.channel_id;
  REQUIRE_OK(client->Release(channel, Reason::kClosed));
  REQUIRE_OK(server->Release(channel, Reason::kClosed));
  CHECK(Becomes(**agent, ChannelsAre(0)));
  CHECK(json::parse((*agent)->StatusText())["domains"].empty());
}

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

}  // namespace
}  // namespace heterok8s::heterosock::agent
