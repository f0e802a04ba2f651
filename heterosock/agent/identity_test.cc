#include "heterosock/agent/socket_identity.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "common/sys/netns.h"
#include "common/testing/matchers.h"
#include "heterosock/agent/inet_diag.h"
#include "heterosock/agent/process_identity.h"

namespace heterok8s::heterosock::agent {
namespace {

using testing::HasCode;

struct Pair {
  sys::UniqueFd client, server;
  uint16_t port = 0;
};

absl::StatusOr<Pair> Connected() {
  sys::UniqueFd listener(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in name{.sin_family = AF_INET};
  name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof name;
  Pair pair;
  pair.client.reset(socket(AF_INET, SOCK_STREAM, 0));
  if (bind(listener.get(), reinterpret_cast<sockaddr*>(&name), length) != 0 || listen(listener.get(), 1) != 0 ||
      getsockname(listener.get(), reinterpret_cast<sockaddr*>(&name), &length) != 0 ||
      connect(pair.client.get(), reinterpret_cast<sockaddr*>(&name), length) != 0) {
    return ErrnoToStatus(errno, "connect");
  }
  pair.server.reset(accept(listener.get(), nullptr, nullptr));
  pair.port = ntohs(name.sin_port);
  return pair;
}

TEST_CASE("who is in a Pod or in a PID namespace of its own gives no orders") {
  const ProcessIdentity own = IdentifySelf();
  CHECK(own.pid_namespace != 0);

  const auto may = [](ProcessIdentity peer, const ProcessIdentity& agent) { return MayAdminister(peer, agent); };
  CHECK(may({.pid = 5, .pid_namespace = 7}, {.pid_namespace = 7}));
  CHECK_FALSE(may({.pid = 5, .pid_namespace = 8}, {.pid_namespace = 7}));
  CHECK_FALSE(may({.pid = 5, .pod_uid = "a", .pid_namespace = 7}, {.pid_namespace = 7}));
  CHECK(may({.pid = 5, .pod_uid = "a", .pid_namespace = 7}, {.pod_uid = "a", .pid_namespace = 7}));
  CHECK_FALSE(may({.pid = 5}, own));  // it is gone, and nothing is known of it
  // What cannot be told is no: the agent's PID namespace does not contain the process, or there is no /proc.
  CHECK_FALSE(may({.pid = 0}, own));
  CHECK_FALSE(may({.pid = 0}, {}));
  CHECK_FALSE(may({.pid = 5}, {}));
}

TEST_CASE("both ends of a connection mirror each other, in this and in another namespace", "[netns]") {
  const std::string path = fmt::format("/run/netns/hk-identity-{}", getpid());
  auto netns = sys::CreateNetns(path);
  REQUIRE_OK(netns);
  absl::StatusOr<Pair> here = Connected(), there = absl::InternalError("not run");
  REQUIRE_OK(sys::InNetns(*netns, [&] {
    there = Connected();
    return there.status();
  }));
  SocketInspector inspector;

  for (const Pair* pair : {&*here, &*there}) {
    auto client = inspector.Inspect(pair->client.get()), server = inspector.Inspect(pair->server.get());
    REQUIRE_OK(client);
    REQUIRE_OK(server);
    CHECK(client->remote.port == pair->port);
    CHECK(client->remote.ToString() == fmt::format("127.0.0.1:{}", pair->port));
    CHECK(client->local == server->remote);
    CHECK(client->remote == server->local);
    CHECK(client->netns_cookie == server->netns_cookie);
    CHECK(client->cookie != server->cookie);
  }
  CHECK(inspector.Inspect(here->client.get())->netns_cookie != inspector.Inspect(there->client.get())->netns_cookie);
  CHECK(inspector.Inspect(there->client.get())->netns_cookie == *sys::NetnsCookie(*netns));
  CHECK(inspector.namespaces() == 2);
  CHECK_OK(sys::DeleteNetns(path));
}

TEST_CASE("where the names of a socket are translated, its ports and cookie find it", "[netns]") {
  auto pair = Connected();
  REQUIRE_OK(pair);
  SocketInspector inspector;
  auto truth = inspector.Inspect(pair->client.get());
  REQUIRE_OK(truth);
  auto netlink = diag::Open();
  REQUIRE_OK(netlink);
  // As a split Pod's hooks would have it: other addresses, the same ports.
  const diag::Tuple hint{.family = AF_INET,
                         .local = {IpAddress::V4(0x0a000001), truth->local.port},
                         .remote = {IpAddress::V4(0x0a000002), truth->remote.port}};

  auto found = diag::Find(netlink->get(), hint, truth->cookie);

  REQUIRE_OK(found);
  CHECK(found->local.address == truth->local.address);
  CHECK(found->remote.address == truth->remote.address);
  CHECK_THAT(diag::Find(netlink->get(), hint, truth->cookie + 1).status(), HasCode(absl::StatusCode::kNotFound));
}

TEST_CASE("what a socket counts is what has passed") {
  auto pair = Connected();
  REQUIRE_OK(pair);
  char buffer[100] = {};
  REQUIRE(send(pair->client.get(), buffer, sizeof buffer, 0) == 100);
  REQUIRE(recv(pair->server.get(), buffer, sizeof buffer, MSG_WAITALL) == 100);

  SocketInspector inspector;
  auto server = inspector.Inspect(pair->server.get());

  REQUIRE_OK(server);
  CHECK(server->traffic.bytes_received == 100);
}

TEST_CASE("what is no connection is refused") {
  SocketInspector inspector;
  sys::UniqueFd fresh(socket(AF_INET, SOCK_STREAM, 0));
  CHECK_THAT(inspector.Inspect(fresh.get()).status(), HasCode(absl::StatusCode::kInvalidArgument));
  CHECK_THAT(inspector.Inspect(0).status(), HasCode(absl::StatusCode::kInvalidArgument));
}

TEST_CASE("a connected process is known by its credentials") {
  int pair[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
  sys::UniqueFd first(pair[0]), second(pair[1]);

  const ProcessIdentity who = IdentifyPeer(first.get());

  CHECK(who.pid == getpid());
  CHECK(who.uid == getuid());
  CHECK(who.command == "identity_test");
  CHECK_FALSE(who.cgroup.empty());
}

}  // namespace
}  // namespace heterok8s::heterosock::agent
