#include "heterosock/upgrade/agent_link.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <string>

#include "heterosock/lib/hidden_fd.h"
#include "heterosock/lib/process.h"
#include "heterosock/lib/trace.h"
#include "heterosock/protocol/messages.h"

namespace heterok8s::heterosock {

// What it needs of the rest of the library.
constinit Process process;
constinit int trace_fd = -1;
void WriteTrace(const char*, ...) {}
int hidden = 0;
int HideFd(int fd) {
  ++hidden;
  return fd;
}
void CloseHidden(int fd) {
  if (fd >= 0) close(fd);
}

namespace {

// An agent that welcomes one library, and reads no more.
struct SilentAgent {
  SilentAgent() {
    REQUIRE(mkdtemp(folder) != nullptr);
    const std::string path = std::string(folder) + "/agent.sock";
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    path.copy(name.sun_path, sizeof name.sun_path - 1);
    path.copy(process.agent_path, sizeof process.agent_path - 1);
    REQUIRE(bind(listener, reinterpret_cast<sockaddr*>(&name), sizeof name) == 0);
    REQUIRE(listen(listener, 1) == 0);
  }
  ~SilentAgent() {
    close(listener);
    if (session >= 0) close(session);
    unlink((std::string(folder) + "/agent.sock").c_str());
    rmdir(folder);
  }
  void Welcome() {
    session = accept(listener, nullptr, nullptr);
    char hello[protocol::kMaxMessageBytes];
    REQUIRE(recv(session, hello, sizeof hello, 0) > 0);
    auto welcome = protocol::Make<protocol::Welcome>();
    welcome.version = protocol::kVersion;
    welcome.epoch = 1;
    welcome.offer_deadline_ms = 1000;
    welcome.max_pending_offers = welcome.max_channels = 1;
    REQUIRE(send(session, &welcome, sizeof welcome, 0) == sizeof welcome);
  }

  char folder[40] = "/tmp/hk-agent-link-XXXXXX";
  const int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
  int session = -1;
};

TEST_CASE("what an agent that is gone had not read is held by nobody") {
  SilentAgent agent;
  AgentLink link;
  AgentLink::Event event;
  CHECK_FALSE(link.Ready());
  agent.Welcome();
  REQUIRE(link.Next(&event));
  REQUIRE(link.Ready());
  const int offered = dup(agent.listener);
  REQUIRE(link.Offer(1, offered));
  close(offered);
  const uint32_t number = link.number();
  CHECK(link.MayHold(number));

  SECTION("in a child its parent's connection may still hold it") {
    link.Forget();
    CHECK(link.MayHold(number));
  }
  SECTION("one that this process gave up may, too") {
    const char nonsense[100] = {};
    REQUIRE(send(agent.session, nonsense, sizeof nonsense, 0) == sizeof nonsense);
    CHECK_FALSE(link.Next(&event));
    CHECK_FALSE(link.Connected());
    CHECK(link.MayHold(number));
  }
  SECTION("the agent's end takes it along") {
    close(agent.session);
    agent.session = -1;
    CHECK_FALSE(link.Next(&event));
    CHECK_FALSE(link.Connected());
    CHECK_FALSE(link.MayHold(number));
    // Also in a child that is forked now.
    link.Forget();
    CHECK_FALSE(link.MayHold(number));
  }
}

TEST_CASE("nothing is hidden for an agent that is not there") {
  SilentAgent agent;
  REQUIRE(unlink(process.agent_path) == 0);
  AgentLink link;
  const int before = hidden, next = dup(agent.listener);
  close(next);

  CHECK_FALSE(link.Ready());

  CHECK_FALSE(link.Connected());
  CHECK(hidden == before);
  const int now = dup(agent.listener);
  CHECK(now == next);
  close(now);
}

}  // namespace
}  // namespace heterok8s::heterosock
