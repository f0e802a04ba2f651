// pingpong: round trips and streams over one socket, for comparing paths.
//
//   pingpong serve tcp|udp ADDRESS            prints the port, answers one client after the other, ends when stdin
//   closes pingpong rtt tcp|udp ADDRESS PORT COUNT   prints COUNT round-trip times of 16 bytes, nanoseconds, one a line
//   pingpong stream ADDRESS PORT SECONDS      sends 64 KiB blocks over TCP; prints bytes a second
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kPing = 16;         // bytes
constexpr size_t kBlock = 64 << 10;  // bytes
constexpr timeval kLimit{5, 0};      // of every socket call

[[noreturn]] void Die(const std::string& what) {
  fmt::print(stderr, "pingpong: {}: {}\n", what, std::strerror(errno));
  std::exit(1);
}

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
};

Address Parse(const std::string& text, int port) {
  Address address;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
  if (inet_pton(AF_INET, text.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(static_cast<uint16_t>(port));
    address.length = sizeof *v4;
  } else if (inet_pton(AF_INET6, text.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(static_cast<uint16_t>(port));
    address.length = sizeof *v6;
  } else {
    errno = EINVAL;
    Die(fmt::format("'{}' is not an IP address", text));
  }
  return address;
}

int MakeSocket(const Address& address, bool tcp) {
  int fd = socket(address.storage.ss_family, (tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC, 0);
  if (fd < 0) Die("socket");
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &kLimit, sizeof kLimit);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &kLimit, sizeof kLimit);
  return fd;
}

void NoDelay(int fd) {
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

bool Wait(int fd) {  // false when stdin closed
  pollfd fds[2] = {{fd, POLLIN, 0}, {0, POLLIN, 0}};
  while (poll(fds, 2, -1) < 0) {
  }
  return fds[1].revents == 0;
}

// Pings are echoed; blocks (a first read of more than a ping) are swallowed.
void ServeTcp(int conn) {
  NoDelay(conn);
  std::vector<char> buffer(kBlock);
  while (true) {
    ssize_t n = recv(conn, buffer.data(), buffer.size(), 0);
    if (n <= 0) return;
    if (static_cast<size_t>(n) <= kPing && send(conn, buffer.data(), static_cast<size_t>(n), MSG_NOSIGNAL) < 0) return;
  }
}

int Serve(bool tcp, const std::string& text) {
  Address address = Parse(text, 0);
  int fd = MakeSocket(address, tcp);
  if (bind(fd, reinterpret_cast<sockaddr*>(&address.storage), address.length) != 0) Die("bind");
  if (tcp && listen(fd, 16) != 0) Die("listen");
  getsockname(fd, reinterpret_cast<sockaddr*>(&address.storage), &address.length);
  fmt::print("{}\n",
             ntohs(reinterpret_cast<sockaddr_in*>(&address.storage)->sin_port));  // the port is at the same place in v6
  std::fflush(stdout);
  char buffer[kPing];
  while (Wait(fd)) {
    if (tcp) {
      int conn = accept4(fd, nullptr, nullptr, SOCK_CLOEXEC);
      if (conn < 0) continue;
      ServeTcp(conn);
      close(conn);
      continue;
    }
    Address from;
    from.length = sizeof from.storage;
    ssize_t n = recvfrom(fd, buffer, sizeof buffer, 0, reinterpret_cast<sockaddr*>(&from.storage), &from.length);
    if (n > 0) sendto(fd, buffer, static_cast<size_t>(n), 0, reinterpret_cast<sockaddr*>(&from.storage), from.length);
  }
  return 0;
}

int Connect(bool tcp, const std::string& text, int port) {
  Address address = Parse(text, port);
  int fd = MakeSocket(address, tcp);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address.storage), address.length) != 0)
    Die(fmt::format("connect {}:{}", text, port));
  if (tcp) NoDelay(fd);
  return fd;
}

int Rtt(bool tcp, const std::string& text, int port, int count) {
  int fd = Connect(tcp, text, port);
  char buffer[kPing] = "0123456789abcde";
  std::vector<long> times;
  constexpr int kWarm = 200;
  for (int i = 0; i < count + kWarm; ++i) {
    Clock::time_point start = Clock::now();
    if (send(fd, buffer, kPing, 0) != static_cast<ssize_t>(kPing)) Die("send");
    if (recv(fd, buffer, kPing, MSG_WAITALL) != static_cast<ssize_t>(kPing)) Die("recv");
    if (i >= kWarm) times.push_back((Clock::now() - start) / std::chrono::nanoseconds(1));
  }
  for (long time : times) fmt::print("{}\n", time);
  return 0;
}

int Stream(const std::string& text, int port, double seconds) {
  int fd = Connect(true, text, port);
  std::vector<char> block(kBlock, 'x');
  size_t sent = 0;
  Clock::time_point start = Clock::now();
  std::chrono::duration<double> took{0};
  while (took.count() < seconds) {
    ssize_t n = send(fd, block.data(), block.size(), 0);
    if (n < 0) Die("send");
    sent += static_cast<size_t>(n);
    took = Clock::now() - start;
  }
  fmt::print("{:.0f}\n", static_cast<double>(sent) / took.count());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() == 3 && words[0] == "serve") return Serve(words[1] == "tcp", words[2]);
  if (words.size() == 5 && words[0] == "rtt")
    return Rtt(words[1] == "tcp", words[2], std::atoi(words[3].c_str()), std::atoi(words[4].c_str()));
  if (words.size() == 4 && words[0] == "stream")
    return Stream(words[1], std::atoi(words[2].c_str()), std::atof(words[3].c_str()));
  fmt::print(stderr,
             "usage: pingpong serve tcp|udp ADDRESS | rtt tcp|udp ADDRESS PORT COUNT | stream ADDRESS PORT SECONDS\n");
  return 2;
}
