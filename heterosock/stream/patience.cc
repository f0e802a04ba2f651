#include "heterosock/stream/patience.h"

#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include <atomic>

#include "heterosock/lib/machine.h"

namespace heterok8s::heterosock {
namespace {

constexpr uint64_t kFreeNs = 200'000;           // of each wait
constexpr uint64_t kPeriodNs = 30'000'000'000;  // in which a budget fills again
constexpr uint64_t kPeerShare = 30;             // a peer may have 1/30 of the time,
constexpr uint64_t kAllShare = 10;              // all together 1/10
constexpr uint64_t kMostStepNs = 10'000'000;    // of one turn: more is a machine that has too much to do
constexpr int kPeers = 64;                      // more of them share a budget

// The other end's address as a number, each of loopback's the same.
uint64_t AddressOf(int fd) {
  sockaddr_in6 v6 = {};
  socklen_t length = sizeof v6;
  // getpeername(), with no system call beside those that a starter's filter must allow (README.md). The kernel wants
  // the very length of the address (sk_getsockopt() in net/core/sock.c).
  const auto ask = [&] {
    return Syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_PEERNAME, reinterpret_cast<long>(&v6),
                   reinterpret_cast<long>(&length));
  };
  if (ask() != 0) {
    length = sizeof(sockaddr_in);
    if (ask() != 0) return 0;
  }
  uint32_t v4 = 0;
  if (v6.sin6_family == AF_INET) {
    sockaddr_in address;
    memcpy(&address, &v6, sizeof address);
    v4 = ntohl(address.sin_addr.s_addr);
  } else if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) {
    v4 = ntohl(v6.sin6_addr.s6_addr32[3]);
  } else if (!IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr)) {
    uint64_t halves[2];
    memcpy(halves, &v6.sin6_addr, sizeof halves);
    return halves[0] * 31 + halves[1];
  } else {
    v4 = INADDR_LOOPBACK;
  }
  return v4 >> 24 == IN_LOOPBACKNET ? INADDR_LOOPBACK : v4;
}

}  // namespace

// What is spent fills again by itself: all is said by when it will be full.
struct Patience::Budget {
  std::atomic<uint64_t> full_at{0};

  // False when nothing was left.
  bool Spend(uint64_t ns, uint64_t share, uint64_t now) {
    uint64_t at = full_at.load(std::memory_order_relaxed);
    uint64_t from = 0;
    do {
      from = at > now ? at : now;
      if (from >= now + kPeriodNs) return false;
    } while (!full_at.compare_exchange_weak(at, from + ns * share, std::memory_order_relaxed));
    return true;
  }
};

constinit Patience::Budget Patience::peers_[kPeers] = {};
constinit Patience::Budget Patience::all_ = {};

Patience::Budget* Patience::BudgetOf(int fd) {
  // Multiplicative hashing: the upper bits depend on all.
  return &peers_[(AddressOf(fd) * 0x9e3779b97f4a7c15) >> 58];
}

bool Patience::Again() {
  if (!LastsAt(Nanoseconds())) return false;
  sched_yield();
  return true;
}

bool Patience::LastsAt(uint64_t now) {
  if (began_ == 0) began_ = now, paid_ = now + kFreeNs;
  if (now - began_ >= most_ns_) return false;
  if (now > paid_) {
    if (peer_ == nullptr) peer_ = BudgetOf(fd_);
    const uint64_t due = now - paid_ < kMostStepNs ? now - paid_ : kMostStepNs;
    paid_ = now;
    if (!peer_->Spend(due, kPeerShare, now) || !all_.Spend(due, kAllShare, now)) return false;
  }
  return true;
}

}  // namespace heterok8s::heterosock
