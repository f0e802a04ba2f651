// pingpong: round trips and streams, alternating between two ways so that whatever disturbs one disturbs the other.
//
//   pingpong serve tcp|udp ADDRESS        prints the port, answers one client after the other, ends when stdin closes
//   pingpong rtt tcp|udp COUNT WAY WAY    prints COUNT lines of two round-trip times of 16 bytes, nanoseconds
//   pingpong stream tcp|udp COUNT WAY WAY prints COUNT lines of two rates, bytes a second, each over a tenth of a
//   second
// WAY is NETNS,ADDRESS,PORT: where the socket is made and what it connects to; an empty NETNS is the caller's.
#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
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
constexpr size_t kDatagram = 1400;   // bytes: fits the usual MTU
constexpr int kWindow = 32;          // datagrams under way: what fits into every receive buffer
constexpr timeval kLimit{5, 0};      // of every socket call
constexpr std::chrono::milliseconds kSlice{100};

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
  std::vector<char> buffer(kBlock);
  int big = 0;
  while (Wait(fd)) {
    if (tcp) {
      int conn = accept4(fd, nullptr, nullptr, SOCK_CLOEXEC);
      if (conn < 0) continue;
      ServeTcp(conn);
      close(conn);
      continue;
    }
    // Pings are echoed; of others each window's last one is answered.
    Address from;
    from.length = sizeof from.storage;
    ssize_t n = recvfrom(fd, buffer.data(), buffer.size(), 0, reinterpret_cast<sockaddr*>(&from.storage), &from.length);
    if (n <= 0 || (static_cast<size_t>(n) > kPing && ++big % kWindow != 0)) continue;
    sendto(fd, buffer.data(), kPing, 0, reinterpret_cast<sockaddr*>(&from.storage), from.length);
  }
  return 0;
}

void Enter(const std::string& netns) {
  if (netns.empty()) return;
  int fd = open(netns.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0 || setns(fd, CLONE_NEWNET) != 0) Die(fmt::format("enter '{}'", netns));
  close(fd);
}

int Connect(bool tcp, const std::string& way) {
  size_t first = way.find(','), last = way.rfind(',');
  if (first == std::string::npos || first == last) {
    errno = EINVAL;
    Die(fmt::format("'{}' is not NETNS,ADDRESS,PORT", way));
  }
  Enter(way.substr(0, first));
  Address address = Parse(way.substr(first + 1, last - first - 1), std::atoi(way.substr(last + 1).c_str()));
  int fd = MakeSocket(address, tcp);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address.storage), address.length) != 0)
    Die(fmt::format("connect {}", way));
  if (tcp) NoDelay(fd);
  return fd;
}

long RoundTrip(int fd) {
  char buffer[kPing] = "0123456789abcde";
  Clock::time_point start = Clock::now();
  if (send(fd, buffer, kPing, 0) != static_cast<ssize_t>(kPing)) Die("send");
  if (recv(fd, buffer, kPing, MSG_WAITALL) != static_cast<ssize_t>(kPing)) Die("recv");
  return (Clock::now() - start) / std::chrono::nanoseconds(1);
}

double Rate(int fd, bool tcp) {
  static std::vector<char> block(kBlock, 'x');
  size_t sent = 0;
  Clock::time_point start = Clock::now();
  Clock::duration took{0};
  while (took < kSlice) {
    if (tcp) {
      ssize_t n = send(fd, block.data(), block.size(), 0);
      if (n < 0) Die("send");
      sent += static_cast<size_t>(n);
    } else {
      for (int i = 0; i < kWindow; ++i) {
        if (send(fd, block.data(), kDatagram, 0) < 0) Die("send");
      }
      char answer[kPing];
      if (recv(fd, answer, sizeof answer, 0) < 0) Die("recv");
      sent += kWindow * kDatagram;
    }
    took = Clock::now() - start;
  }
  return static_cast<double>(sent) / std::chrono::duration<double>(took).count();
}

int Compare(bool round_trips, bool tcp, int count, const std::string& first, const std::string& second) {
  std::array<int, 2> fds = {Connect(tcp, first), Connect(tcp, second)};
  const int warm = round_trips ? 500 : 2;
  std::vector<std::array<double, 2>> results;
  for (int i = 0; i < count + warm; ++i) {
    std::array<double, 2> result{};
    for (int k = 0; k < 2; ++k) {
      int way = (i + k) % 2;  // each is first every second time
      result[way] = round_trips ? static_cast<double>(RoundTrip(fds[way])) : Rate(fds[way], tcp);
    }
    if (i >= warm) results.push_back(result);
  }
  for (const auto& result : results) fmt::print("{:.0f} {:.0f}\n", result[0], result[1]);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() == 3 && words[0] == "serve") return Serve(words[1] == "tcp", words[2]);
  if (words.size() == 5 && (words[0] == "rtt" || words[0] == "stream"))
    return Compare(words[0] == "rtt", words[1] == "tcp", std::atoi(words[2].c_str()), words[3], words[4]);
  fmt::print(stderr, "usage: pingpong serve tcp|udp ADDRESS | rtt|stream tcp|udp COUNT WAY WAY\n");
  return 2;
}
