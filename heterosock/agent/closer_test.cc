#include "heterosock/agent/closer.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>

#include "common/testing/matchers.h"
#include "heterosock/agent/testing/client.h"

namespace heterok8s::heterosock::agent {
namespace {

using namespace testing;

// True when the other end of the pipe that `reader` belongs to is closed.
bool SeesTheEnd(int reader) {
  pollfd p{reader, POLLIN, 0};
  return poll(&p, 1, 20000) == 1 && (p.revents & POLLHUP) != 0;
}

TEST_CASE("what is given is closed, soon, many at once") {
  Closer closer;
  std::vector<sys::UniqueFd> readers;
  for (int i = 0; i < 200; ++i) {
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    readers.emplace_back(ends[0]);
    CHECK(closer.Close(sys::UniqueFd(ends[1]), "d"));
  }
  for (const sys::UniqueFd& reader : readers) CHECK(SeesTheEnd(reader.get()));
}

TEST_CASE("sockets that linger for minutes keep nobody else waiting, and their domain is told no") {
  Closer closer;
  std::vector<Connection> connections;
  bool refused = false;
  for (int i = 0; i < 300 && !refused; ++i) {
    auto connection = MakeConnection();
    REQUIRE_OK(connection);
    // Unsent data, a peer that does not read, and nobody but us holds the socket: close() waits for it.
    const linger patient{.l_onoff = 1, .l_linger = 600};
    setsockopt(connection->client.get(), SOL_SOCKET, SO_LINGER, &patient, sizeof patient);
    std::string megabyte(1 << 20, 'x');
    const int small = 4096;
    setsockopt(connection->server.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    while (send(connection->client.get(), megabyte.data(), megabyte.size(), MSG_DONTWAIT) > 0) {
    }
    refused = !closer.Close(std::move(connection->client), "hostile");
    connections.push_back(*std::move(connection));
    if (i == 10) {
      int ends[2];
      REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
      sys::UniqueFd reader(ends[0]);
      CHECK(closer.Close(sys::UniqueFd(ends[1]), "honest"));
      CHECK(SeesTheEnd(reader.get()));
    }
  }
  CHECK(refused);
  // The peers' ends reset the connections, which lets the threads go.
  for (Connection& connection : connections) {
    const linger none{.l_onoff = 1, .l_linger = 0};
    setsockopt(connection.server.get(), SOL_SOCKET, SO_LINGER, &none, sizeof none);
  }
}

}  // namespace
}  // namespace heterok8s::heterosock::agent
