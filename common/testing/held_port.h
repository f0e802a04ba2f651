// A TCP port of 127.0.0.1 that is a test's for as long as it lives, whether anybody listens on it or not.
//
// Purpose: a port that must refuse, or that a server has, loses and gets again. One that was let go can be anybody's in
// the next moment: another test's bind to port 0, or a connection's own port.
// How: bound with SO_REUSEADDR and never listening. The kernel gives such a port to no bind of port 0, refuses those
// who connect, and lets a server have it that names it and sets SO_REUSEADDR, as gRPC's do
// (net/ipv4/inet_connection_sock.c, inet_csk_get_port). Threading: immutable. Ownership: of its socket.
// Errors: fails the test that makes it.
//
//   testing::HeldPort port;
//   Serve(port.number());   // and stop, and serve again
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>

#include "common/sys/unique_fd.h"

namespace heterok8s::testing {

class HeldPort {
 public:
  HeldPort() : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    const int one = 1;
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    REQUIRE(setsockopt(socket_.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0);
    REQUIRE(bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), size) == 0);
    REQUIRE(getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
    number_ = ntohs(address.sin_port);
  }
  int number() const { return number_; }

 private:
  sys::UniqueFd socket_;
  int number_ = 0;
};

}  // namespace heterok8s::testing
