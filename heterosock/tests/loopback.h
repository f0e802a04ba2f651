// A TCP connection of which one process has both ends, for programs that are tests themselves. What fails ends them.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>

namespace heterok8s::heterosock::behaviour {

[[noreturn]] inline void Die(const char* what) {
  std::perror(what);
  _exit(2);
}

struct Connection {
  int client = -1, server = -1;
};

inline Connection Connect() {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* name = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener, name, length) != 0 || listen(listener, 1) != 0 || getsockname(listener, name, &length) != 0)
    Die("listen");
  Connection made;
  made.client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(made.client, name, length) != 0) Die("connect");
  made.server = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  if (made.server < 0) Die("accept4");
  close(listener);
  return made;
}

inline void Exchange(const Connection& between) {
  char byte = 'x';
  if (send(between.client, &byte, 1, 0) != 1 || recv(between.server, &byte, 1, 0) != 1 ||
      send(between.server, &byte, 1, 0) != 1 || recv(between.client, &byte, 1, 0) != 1)
    Die("exchange");
}

}  // namespace heterok8s::heterosock::behaviour
