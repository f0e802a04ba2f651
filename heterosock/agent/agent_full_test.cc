// The agent when the kernel takes no more descriptors from its user for now.
#include <dirent.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "heterosock/agent/packet.h"
#include "heterosock/agent/testing/client.h"
#include "heterosock/agent/testing/joined.h"

namespace heterok8s::heterosock::agent {
namespace {

using nlohmann::json;
using namespace testing;

constexpr int kFiles = 120;  // that this user may have open, and under way
constexpr size_t kInPacket = 16;

// Whether an event loop of this process waits until something is writable (proc_pid_fdinfo(5)).
bool WaitsToWrite() {
  constexpr unsigned kOut = 4;  // EPOLLOUT
  DIR* folder = opendir("/proc/self/fdinfo");
  if (folder == nullptr) return true;
  bool waits = false;
  while (dirent* entry = readdir(folder)) {
    std::ifstream file(std::string("/proc/self/fdinfo/") + entry->d_name);
    for (std::string line; std::getline(file, line);) {
      unsigned events = 0;
      if (sscanf(line.c_str(), "tfd: %*d events: %x", &events) == 1 && (events & kOut) != 0) waits = true;
    }
  }
  closedir(folder);
  return waits;
}

// In a process of its own: 0, or the line that is not as it should be, or that this machine cannot do it.
constexpr int kCannot = -77;
#define EXPECT(what) \
  if (!(what)) return __LINE__

int AnswersWhenThereIsRoom(bool across_pus, const std::string& address) {
  Agent::Options options = Patient();
  const std::string folder = MakeFolder();
  std::unique_ptr<RunningAgent> other;
  if (across_pus) {
    Agent::Options listens = Patient();
    listens.pu_listen = options.pu_connect = folder + "/pu.sock";
    auto started = RunningAgent::Start(listens);
    EXPECT(started.ok());
    other = *std::move(started);
  }
  auto agent = RunningAgent::Start(options);
  EXPECT(agent.ok());
  // Of the two agents the one that listens makes the channel.
  RunningAgent& makes = across_pus ? *other : **agent;
  if (across_pus) EXPECT(Becomes(makes, [](const json& s) { return s["totals"]["pu_link"] == true; }));
  if (across_pus) EXPECT(Becomes(**agent, [](const json& s) { return s["totals"]["pu_link"] == true; }));
  auto client = Client::Connect((*agent)->socket()), server = Client::Connect(makes.socket());
  auto connection = MakeConnection(address);
  EXPECT(client.ok() && server.ok() && connection.ok());
  int heap[2];
  EXPECT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, heap) == 0);
  const std::vector<int> many(kInPacket, heap[0]);

  {
    auto held = makes.Hold();
    EXPECT(client->Offer(1, connection->client.get()).ok());
    EXPECT(server->Offer(1, connection->server.get()).ok());
    Sent sent;
    while ((sent = SendPacket(heap[0], std::string("x"), many)) == Sent::kSent) {
    }
    EXPECT(sent == Sent::kLater);
  }
  EXPECT(Becomes(makes, [](const json& s) { return s["totals"]["pairs"] == 1; }));
  EXPECT(!WaitsToWrite());
  // Nothing but the agent itself looks whether there is room again.
  Packet packet;
  while (ReceivePacket(heap[1], packet, 1, kInPacket) == Received::kPacket) {
  }
  packet.descriptors.clear();
  EXPECT(server->Await<protocol::Paired>().ok());
  EXPECT(client->Await<protocol::Paired>().ok());
  rmdir(folder.c_str());
  return 0;
}

// A user of its own, whose descriptors under way are nobody else's, and no right to have more of them.
int AsSomeUser(bool across_pus) {
  // What is offered to the other PU has no loopback address.
  std::string address = "127.0.0.1";
  if (across_pus) {
    address = "10.9.0.1";
    if (unshare(CLONE_NEWNET) != 0) return kCannot;
    EXPECT(system("ip link set lo up && ip addr add 10.9.0.1/32 dev lo") == 0);
  }
  const auto user = static_cast<uid_t>(1'000'000 + getpid());
  if (geteuid() == 0 && setresuid(user, user, user) != 0) return kCannot;
  prctl(PR_SET_DUMPABLE, 1);  // or /proc/self is root's
  const rlimit files{.rlim_cur = kFiles, .rlim_max = kFiles};
  EXPECT(setrlimit(RLIMIT_NOFILE, &files) == 0);
  return AnswersWhenThereIsRoom(across_pus, address);
}

TEST_CASE("an answer for which the kernel has no room waits by the clock, not for a socket that is writable") {
  const bool across_pus = GENERATE(false, true);
  const pid_t child = fork();
  if (child == 0) {
    const int line = AsSomeUser(across_pus);
    if (line > 0) fprintf(stderr, "%s:%d: not so\n", __FILE__, line);
    _exit(line > 0 ? 1 : -line);
  }

  int status = 0;
  waitpid(child, &status, 0);

  if (WIFEXITED(status) && WEXITSTATUS(status) == -kCannot) {
    WARN("SKIPPED: no other user, or no network namespace, can be had here");
  } else {
    CHECK(status == 0);
  }
}

}  // namespace
}  // namespace heterok8s::heterosock::agent
