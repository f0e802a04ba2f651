#include "bench/heterosock/wire.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <new>
#include <string>

#include "heterosock/layout/channel.h"

namespace heterok8s::bench {
namespace {

class SocketWire : public Wire {
 public:
  explicit SocketWire(bool spin) : spin_(spin) {}
  ~SocketWire() override { close(fd_); }

  void Send(const char* bytes, size_t size) override {
    while (size > 0) {
      ssize_t n = send(fd_, bytes, size, MSG_NOSIGNAL);
      if (n < 0 && (errno == EINTR || (spin_ && errno == EAGAIN))) continue;
      if (n < 0 && (errno == EPIPE || errno == ECONNRESET)) _exit(0);  // the other side has measured enough
      if (n < 0) Die("send");
      bytes += n;
      size -= static_cast<size_t>(n);
    }
  }

  size_t ReceiveSome(char* bytes, size_t size) override {
    while (true) {
      Await();
      ssize_t n = recv(fd_, bytes, size, 0);
      if (n >= 0) return static_cast<size_t>(n);
      if (errno == ECONNRESET) return 0;
      if (errno != EINTR && !(spin_ && errno == EAGAIN)) Die("recv");
    }
  }
  virtual void Await() {}  // before each look for bytes

  int Descriptor() const override { return fd_; }

 protected:
  int fd_ = -1;
  bool spin_;
};

class TcpWire : public SocketWire {
 public:
  explicit TcpWire(bool spin) : SocketWire(spin) {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address_;
    if (bind(listener_, reinterpret_cast<sockaddr*>(&address_), length) != 0 || listen(listener_, 1) != 0)
      Die("listen");
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address_), &length);
  }

  void Open(int side) override {
    if (side == 0) {
      fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
      if (connect(fd_, reinterpret_cast<sockaddr*>(&address_), sizeof address_) != 0) Die("connect");
    } else {
      fd_ = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd_ < 0) Die("accept");
    }
    close(listener_);
    int one = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (spin_) fcntl(fd_, F_SETFL, O_NONBLOCK);
  }

 private:
  int listener_;
  sockaddr_in address_{};
};

class PollWire : public TcpWire {
 public:
  PollWire() : TcpWire(true) {}
  void Await() override {
    pollfd one{fd_, POLLIN, 0};
    poll(&one, 1, -1);
  }
};

class EpollWire : public TcpWire {
 public:
  EpollWire() : TcpWire(true) {}
  ~EpollWire() override { close(set_); }
  void Open(int side) override {
    TcpWire::Open(side);
    epoll_event event{EPOLLIN, {}};
    if ((set_ = epoll_create1(EPOLL_CLOEXEC)) < 0 || epoll_ctl(set_, EPOLL_CTL_ADD, fd_, &event) != 0) Die("epoll");
  }
  void Await() override {
    epoll_event event;
    epoll_wait(set_, &event, 1, -1);
  }

 private:
  int set_ = -1;
};

class UnixWire : public SocketWire {
 public:
  UnixWire() : SocketWire(false) {
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, both_) != 0) Die("socketpair");
  }
  void Open(int side) override {
    fd_ = both_[side];
    close(both_[1 - side]);
  }

 private:
  int both_[2];
};

void Relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// One direction; each index has a line of its own and one writer. The bytes follow.
struct Direction {
  alignas(128) std::atomic<uint64_t> tail;
  alignas(128) std::atomic<uint64_t> head;
};

class RingWire : public Wire {
 public:
  RingWire() {
    void* at = mmap(nullptr, 2 * kStride, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (at == MAP_FAILED) Die("mmap");
    for (int i : {0, 1}) directions_[i] = new (static_cast<char*>(at) + i * kStride) Direction();
  }

  void Open(int side) override { side_ = side; }

  void Send(const char* bytes, size_t size) override {
    Direction& to = *directions_[side_];
    while (size > 0) {
      uint64_t tail = to.tail.load(std::memory_order_relaxed);
      size_t room;
      while ((room = kRing - static_cast<size_t>(tail - to.head.load(std::memory_order_acquire))) == 0) Relax();
      size_t at = static_cast<size_t>(tail % kRing), n = std::min({size, room, kRing - at, kPiece});
      std::memcpy(Bytes(to) + at, bytes, n);
      to.tail.store(tail + n, std::memory_order_release);
      bytes += n;
      size -= n;
    }
  }

  size_t ReceiveSome(char* bytes, size_t size) override {
    Direction& from = *directions_[1 - side_];
    uint64_t head = from.head.load(std::memory_order_relaxed);
    size_t there;
    while ((there = static_cast<size_t>(from.tail.load(std::memory_order_acquire) - head)) == 0) Relax();
    size_t at = static_cast<size_t>(head % kRing), n = std::min({size, there, kRing - at});
    std::memcpy(bytes, Bytes(from) + at, n);
    from.head.store(head + n, std::memory_order_release);
    return n;
  }

 private:
  static constexpr size_t kRing = 1 << 20, kPiece = 16 << 10, kStride = 2 << 20;
  static char* Bytes(Direction& direction) { return reinterpret_cast<char*>(&direction) + 4096; }
  Direction* directions_[2];
  int side_ = 0;
};

}  // namespace

void Die(const std::string& what) {
  std::fprintf(stderr, "pair: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

void Wire::Receive(char* bytes, size_t size) {
  while (size > 0) {
    size_t n = ReceiveSome(bytes, size);
    if (n == 0) _exit(0);
    bytes += n;
    size -= n;
  }
}

Place Listen(const std::string& wire, int backlog) {
  Place place{};
  place.spin = wire == "tcp-spin";
  const bool tcp = wire == "tcp" || place.spin;
  errno = EINVAL;
  if (!tcp && wire != "unix") Die("no connections are made over " + wire);
  place.fd = socket(tcp ? AF_INET : AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | (place.spin ? SOCK_NONBLOCK : 0), 0);
  place.length = sizeof(sa_family_t);  // of a Unix socket: unix(7), autobind
  place.address.ss_family = AF_UNIX;
  if (tcp) {
    auto& in = reinterpret_cast<sockaddr_in&>(place.address);
    in.sin_family = AF_INET;
    in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    place.length = sizeof in;
  }
  auto* address = reinterpret_cast<sockaddr*>(&place.address);
  if (place.fd < 0 || bind(place.fd, address, place.length) != 0 || listen(place.fd, backlog) != 0) Die("listen");
  place.length = sizeof place.address;
  getsockname(place.fd, address, &place.length);
  return place;
}

int Connect(const Place& place) {
  int fd = socket(place.address.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&place.address), place.length) != 0) Die("connect");
  if (place.address.ss_family == AF_INET) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return fd;
}

int Accept(const Place& place) {
  int fd, one = 1;
  while ((fd = accept4(place.fd, nullptr, nullptr, SOCK_CLOEXEC)) < 0) {
    if (!place.spin || errno != EAGAIN) Die("accept");
  }
  if (place.address.ss_family == AF_INET) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  return fd;
}

void ReceiveAll(int fd, char* bytes, size_t size, bool spin) {
  while (size > 0) {
    ssize_t n = recv(fd, bytes, size, spin ? MSG_DONTWAIT : 0);
    if (n < 0 && (errno == EINTR || (spin && errno == EAGAIN))) continue;
    if (n <= 0) Die("recv");
    bytes += n;
    size -= static_cast<size_t>(n);
  }
}

std::unique_ptr<Wire> MakeWire(const std::string& name) {
  if (name == "tcp") return std::make_unique<TcpWire>(false);
  if (name == "tcp-spin") return std::make_unique<TcpWire>(true);
  if (name == "tcp-poll") return std::make_unique<PollWire>();
  if (name == "tcp-epoll") return std::make_unique<EpollWire>();
  if (name == "unix") return std::make_unique<UnixWire>();
  if (name == "ring") return std::make_unique<RingWire>();
  errno = EINVAL;
  Die("no such wire: " + name);
}

namespace {
auto* AskIfMoved() {
  static auto* ask = reinterpret_cast<int (*)(int)>(dlsym(RTLD_DEFAULT, "heterosock_moved"));
  return ask;
}
}  // namespace

bool Preloaded() { return AskIfMoved() != nullptr; }

bool Moved(int fd) {
  auto* moved = AskIfMoved();
  return moved && fd >= 0 && moved(fd) == 3;
}

Waits CountWaits() {
  // A channel's memory is a memfd with a name, of which the page that says all is the first.
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("/memfd:heterosock ") == std::string::npos) continue;
    const auto* page = reinterpret_cast<const heterosock::layout::ChannelPage*>(std::stoul(line, nullptr, 16));
    if (page->header.magic != heterosock::layout::kChannelMagic) continue;
    Waits waits{};
    for (const heterosock::layout::SideLines& side : page->side) {
      waits.looked += side.counters.spins.load(std::memory_order_relaxed);
      waits.slept += side.counters.sleeps.load(std::memory_order_relaxed);
    }
    return waits;
  }
  return {};
}

void Settle(Wire& wire, int side) {
  if (wire.Descriptor() < 0) return;
  char bytes[4096] = {};
  auto end = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  while (true) {
    // The client decides; its first byte says whether it goes on.
    bytes[0] = Moved(wire.Descriptor()) || std::chrono::steady_clock::now() > end;
    if (side == 0) {
      wire.Send(bytes, sizeof bytes);
      char last = bytes[0];
      wire.Receive(bytes, sizeof bytes);
      if (last) return;
    } else {
      wire.Receive(bytes, sizeof bytes);
      char last = bytes[0];
      wire.Send(bytes, sizeof bytes);
      if (last) return;
    }
    if (!Preloaded()) end = {};
  }
}

void Pin(int cpu) {
  if (cpu < 0) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) Die("sched_setaffinity");
}

}  // namespace heterok8s::bench
