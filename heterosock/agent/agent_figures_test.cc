// What status and metrics say of what connections carried, and what saying it costs.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstddef>
#include <cstring>
#include <fstream>
#include <future>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/testing/eventually.h"
#include "common/testing/matchers.h"
#include "heterosock/agent/packet.h"
#include "heterosock/agent/testing/client.h"
#include "heterosock/agent/testing/joined.h"
#include "heterosock/layout/channel.h"

namespace heterok8s::heterosock::agent {
namespace {

using heterok8s::testing::Eventually;
using nlohmann::json;
using protocol::Reason;
using namespace testing;

// The first end says that it has sent so much.
bool Say(int memory, uint64_t sent) {
  constexpr size_t kTail =
      offsetof(layout::ChannelPage, side) + offsetof(layout::SideLines, sender) + offsetof(layout::SenderLine, tail);
  return pwrite(memory, &sent, sizeof sent, kTail) == sizeof sent;
}

// What reads this thread has made (proc_pid_io(5)).
uint64_t Reads() {
  std::ifstream file("/proc/thread-self/io");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("syscr: ")) return std::stoull(line.substr(7));
  }
  return 0;
}

struct Answer {
  json totals;
  uint64_t reads = 0;
};
Answer Ask(RunningAgent& agent) {
  auto promise = std::make_shared<std::promise<Answer>>();
  agent.agent().Post([promise](Agent& a) {
    const uint64_t before = Reads();
    json totals = a.Totals();
    promise->set_value({std::move(totals), Reads() - before});
  });
  return promise->get_future().get();
}
uint64_t Shared(RunningAgent& agent) { return Ask(agent).totals["shared_bytes"]; }

// An agent, and two libraries with connections that have each sent so much.
struct Many {
  const std::string folder = MakeFolder();
  std::unique_ptr<RunningAgent> agent;
  std::optional<Client> client, server;

  Many(int count, uint64_t sent) {
    Agent::Options options = Patient();
    options.admin = folder + "/admin.sock";
    auto started = RunningAgent::Start(options);
    REQUIRE_OK(started);
    agent = *std::move(started);
    auto near = Client::Connect(agent->socket()), far = Client::Connect(agent->socket());
    REQUIRE_OK(near);
    REQUIRE_OK(far);
    client = *std::move(near);
    server = *std::move(far);
    for (int i = 0; i < count; ++i) {
      auto joined = Join(*client, *server, i + 1);
      REQUIRE_OK(joined);
      REQUIRE(Say(joined->client.second.descriptors[0].get(), sent));
    }
  }
  ~Many() {
    agent.reset();
    rmdir(folder.c_str());
  }
};

TEST_CASE("figures of a thousand connections cost the agent's thread a bounded number of reads at a time") {
  constexpr int kMany = 1000, kReads = 200;
  Many many(kMany, 7);

  const Answer first = Ask(*many.agent);

  CHECK(first.reads > 0);
  CHECK(first.reads < kReads);
  CHECK(Eventually([&] {
    const Answer again = Ask(*many.agent);
    return again.reads < kReads && again.totals["shared_bytes"] == 7 * kMany && again.totals["memory_bytes"] > 0;
  }));
}

TEST_CASE("bytes are a counter that never falls, whatever an end says and when it ends") {
  Many many(0, 0);
  auto joined = Join(*many.client, *many.server);
  REQUIRE_OK(joined);
  const int memory = joined->client.second.descriptors[0].get();
  REQUIRE(Say(memory, 1000));
  REQUIRE(Shared(*many.agent) == 1000);

  SECTION("less than before") {
    REQUIRE(Say(memory, 10));
    CHECK(Shared(*many.agent) == 1000);
  }
  SECTION("more than anybody sends") {
    REQUIRE(Say(memory, ~uint64_t{0} - 500));
    CHECK(Shared(*many.agent) == 1000);
  }
  SECTION("more, and then it ends") {
    REQUIRE(Say(memory, 3000));
    many.client.reset();
    many.server.reset();
    CHECK(Becomes(*many.agent, ChannelsAre(0)));
    CHECK(Shared(*many.agent) == 3000);
    CHECK(Ask(*many.agent).totals["memory_bytes"] == 0);
  }
}

TEST_CASE("what was sent before an agent's restart the agent before has counted") {
  Many before(0, 0);
  auto joined = Join(*before.client, *before.server);
  REQUIRE_OK(joined);
  const int memory = joined->client.second.descriptors[0].get();
  REQUIRE(Say(memory, 1000));
  Many after(0, 0);

  REQUIRE_OK(after.client->Resume(joined->client.first, joined->connection.client.get(), memory));
  REQUIRE(Becomes(*after.agent, ChannelsAre(1)));

  CHECK(Shared(*after.agent) == 0);
  REQUIRE(Say(memory, 1500));
  CHECK(Shared(*after.agent) == 500);
}

// What heterosockctl is told; with `ends`, a client that sends nothing behind its request (nc -N).
json Status(const Many& many, const char* request, bool ends = false) {
  auto fd = ConnectUnix(many.folder + "/admin.sock", SOCK_STREAM);
  REQUIRE_OK(fd);
  REQUIRE(send(fd->get(), request, strlen(request), MSG_NOSIGNAL) > 0);
  if (ends) REQUIRE(shutdown(fd->get(), SHUT_WR) == 0);
  std::string answer;
  std::vector<char> buffer(4096);
  pollfd p{fd->get(), POLLIN, 0};
  while (poll(&p, 1, 20000) == 1) {
    const ssize_t got = recv(fd->get(), buffer.data(), buffer.size(), 0);
    if (got <= 0) break;
    answer.append(buffer.data(), static_cast<size_t>(got));
  }
  return json::parse(answer, nullptr, /*allow_exceptions=*/false);
}

TEST_CASE("a client that ends its request by its end is told all of the status") {
  for (const size_t connections : {0, 300}) {
    CAPTURE(connections);
    Many many(static_cast<int>(connections), 7);

    const json status = Status(many, "{\"command\":\"status\"}\n", /*ends=*/true);

    REQUIRE(status.is_object());
    CHECK(status.at("channels").size() == connections);
  }
}

TEST_CASE("status shows every connection once, and each end's counters where they are asked for") {
  constexpr size_t kMany = 300;
  Many many(kMany, 7);

  const json brief = Status(many, "{\"command\":\"status\"}\n");
  const json whole = Status(many, "{\"command\":\"status\",\"counters\":true}\n");

  for (const json* each : {&brief, &whole}) {
    std::set<uint64_t> numbers;
    for (const json& channel : each->at("channels")) numbers.insert(channel.at("channel").get<uint64_t>());
    CHECK(each->at("channels").size() == kMany);
    CHECK(numbers.size() == kMany);
    CHECK(each->at("processes").size() == 2);
  }
  CHECK_FALSE(brief["channels"][0]["ends"][0].contains("counters"));
  CHECK(brief["channels"][0]["ends"][0]["sending_on"] == "TCP");
  CHECK(whole["channels"][kMany - 1]["ends"][0]["counters"]["sent"] == 7);
}

TEST_CASE("the status of no connection is whole too") {
  Many many(0, 0);

  CHECK(Status(many, "{\"command\":\"status\"}\n").at("channels") == json::array());
}

}  // namespace
}  // namespace heterok8s::heterosock::agent
