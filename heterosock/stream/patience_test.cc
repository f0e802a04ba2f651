// How long other ends can have a process wait, by a clock of the test's own.
#include "heterosock/stream/patience.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>

namespace heterok8s::heterosock {
namespace {

constexpr uint64_t kUs = 1'000, kMs = 1'000'000, kSecond = 1'000'000'000;
constexpr uint64_t kStep = 50 * kUs, kMost = 2 * kSecond;

// A descriptor whose other end is at that address. Nothing is sent.
int To(uint32_t address) {
  const int fd = socket(AF_INET, SOCK_DGRAM, 0);
  sockaddr_in name{};
  name.sin_family = AF_INET;
  name.sin_port = htons(9);
  name.sin_addr.s_addr = htonl(address);
  const char loopback[] = "lo";  // whatever routes there are
  if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, loopback, sizeof loopback) != 0 ||
      connect(fd, reinterpret_cast<sockaddr*>(&name), sizeof name) != 0)
    abort();
  return fd;
}

// One wait for an end that never answers: how long it lasted.
uint64_t Wait(int fd, uint64_t& now, uint64_t most = kMost) {
  Patience patience(fd, most);
  const uint64_t began = now;
  while (patience.LastsAt(now)) now += kStep;
  return now - began;
}

// All that has been spent is there again.
void Rest(uint64_t& now) { now += 60 * kSecond; }

uint64_t now = 1000 * kSecond;

TEST_CASE("a peer has a second of all its waits, and a moment of each") {
  Rest(now);
  const int peer = To(0x0a000001);
  uint64_t all = 0;
  for (int i = 0; i < 60; ++i) all += Wait(peer, now);

  CHECK(all >= kSecond);
  // What came back meanwhile, and a step too long each.
  CHECK(all <= (kSecond + 60 * (200 * kUs + 2 * kStep)) * 11 / 10);
  CHECK(Wait(peer, now) <= 200 * kUs + 2 * kStep);
  close(peer);
}

TEST_CASE("all peers together have three seconds") {
  Rest(now);
  uint64_t all = 0;
  for (uint32_t i = 0; i < 60; ++i) {
    const int peer = To(0x0a000100 + i);
    all += Wait(peer, now, kMost);
    close(peer);
  }

  CHECK(all >= 3 * kSecond);
  CHECK(all <= (3 * kSecond + 60 * (200 * kUs + 2 * kStep)) * 6 / 5);
}

TEST_CASE("the addresses of loopback are one peer, and who has none is another") {
  Rest(now);
  const int first = To(0x7f000001), second = To(0x7f000203);
  CHECK(Wait(first, now) >= 900 * kMs);

  CHECK(Wait(second, now) < 100 * kMs);
  CHECK(Wait(-1, now) >= 900 * kMs);
  close(first);
  close(second);
}

TEST_CASE("a peer has its second again after half a minute, and no wait is longer than it may be") {
  Rest(now);
  const int peer = To(0x0a000002);
  CHECK(Wait(peer, now, 100 * kMs) <= 100 * kMs + kStep);
  Wait(peer, now);
  CHECK(Wait(peer, now) < 100 * kMs);

  now += 31 * kSecond;

  CHECK(Wait(peer, now) >= 900 * kMs);
  close(peer);
}

TEST_CASE("a turn in which the machine did something else costs ten milliseconds at most") {
  Rest(now);
  const int peer = To(0x0a000003);
  Patience patience(peer, 100 * kSecond);
  int turns = 0;
  for (; patience.LastsAt(now); ++turns) now += 100 * kMs;

  CHECK(turns >= 100);
  close(peer);
}

}  // namespace
}  // namespace heterok8s::heterosock
