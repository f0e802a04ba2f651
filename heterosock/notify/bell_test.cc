// Wake-ups are not lost: two threads hand a counter back and forth and sleep between any two hand-overs.
#include "heterosock/notify/bell.h"

#include <fcntl.h>
#include <poll.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <string>
#include <thread>

namespace heterok8s::heterosock {
namespace {

struct Side {
  layout::Shared<uint64_t> tail{0};
  layout::Shared<uint32_t> sleep{0};
  layout::WaitLine wait = {};
  int bell[2] = {-1, -1};

  Side() {
    if (pipe2(bell, O_NONBLOCK | O_CLOEXEC) != 0) std::abort();
  }
  ~Side() {
    close(bell[0]);
    close(bell[1]);
  }
};

// Waits until the other side's tail is `value`, asleep after at most `looks` looks. False when nobody rang for ten
// seconds.
bool Await(Side& own, Side& other, uint64_t value, uint32_t& armed, unsigned looks) {
  for (unsigned i = 0; i < looks; ++i) {
    if (other.tail.load(std::memory_order_acquire) == value) return true;
  }
  for (;;) {
    bell::Empty(own.bell[0]);
    bell::Arm(own.sleep, armed);
    if (other.tail.load(std::memory_order_acquire) == value) return true;
    pollfd bell = {own.bell[0], POLLIN, 0};
    if (poll(&bell, 1, 10000) != 1) return false;
  }
}

bool Play(Side& own, Side& other, uint64_t rounds, bool first) {
  uint32_t armed = 0, rang = 0;
  unsigned looks = first ? 1 : 7;
  for (uint64_t i = 1; i <= rounds; ++i) {
    if (!first && !Await(own, other, i, armed, looks)) return false;
    own.tail.store(i, std::memory_order_release);
    bell::Notify(other.sleep, rang, own.wait, {other.bell[1]});
    if (first && !Await(own, other, i, armed, looks)) return false;
    // Every interleaving of looking and sleeping gets its turn.
    looks = looks * 1103515245u + 12345u;
    looks %= 400;
  }
  return true;
}

TEST_CASE("no wake-up is lost between two sides that sleep and wake in every order") {
  // HETEROSOCK_BELL_ROUNDS=1000000000 for the long run.
  const char* asked = std::getenv("HETEROSOCK_BELL_ROUNDS");
  const uint64_t rounds = asked != nullptr ? std::strtoull(asked, nullptr, 10) : 50000;
  Side a, b;
  bool first = false, second = false;

  std::thread other([&] { second = Play(b, a, rounds, false); });
  first = Play(a, b, rounds, true);
  other.join();

  CHECK(first);
  CHECK(second);
}

TEST_CASE("one armed value is rung for once") {
  Side sleeper, waker;
  uint32_t armed = 0, rang = 0;

  bell::Arm(sleeper.sleep, armed);

  CHECK(bell::Notify(sleeper.sleep, rang, waker.wait, {sleeper.bell[1]}));
  CHECK_FALSE(bell::Notify(sleeper.sleep, rang, waker.wait, {sleeper.bell[1]}));
  bell::Arm(sleeper.sleep, armed);
  CHECK(bell::Notify(sleeper.sleep, rang, waker.wait, {sleeper.bell[1]}));
}

TEST_CASE("only a receiver that said so is left asleep, and it is woken when nothing more is to come") {
  Side waker;
  layout::WaitLine receiver = {};
  uint32_t armed = 0, rang = 0;

  bell::ArmReceiver(receiver, armed, false);
  CHECK_FALSE(bell::LeaveAsleep(receiver, rang));
  bell::ArmReceiver(receiver, armed, true);
  CHECK(bell::LeaveAsleep(receiver, rang));
  CHECK(bell::Notify(receiver.rx_sleep, rang, waker.wait, {waker.bell[1]}));
  CHECK_FALSE(bell::LeaveAsleep(receiver, rang));  // it is awake, or about to be
  bell::ArmReceiver(receiver, armed, true);
  bell::ArmReceiver(receiver, armed, false);
  CHECK_FALSE(bell::LeaveAsleep(receiver, rang));
}

TEST_CASE("ringing for a peer that is gone neither kills nor leaves a signal behind") {
  int bell[2];
  REQUIRE(pipe2(bell, O_NONBLOCK | O_CLOEXEC) == 0);
  close(bell[0]);

  bell::Ring({bell[1]});

  sigset_t pending;
  sigpending(&pending);
  CHECK_FALSE(sigismember(&pending, SIGPIPE));
  close(bell[1]);
}

TEST_CASE("who can read the bell too rings for a peer that is gone, even when it is full") {
  int bell[2];
  REQUIRE(pipe2(bell, O_NONBLOCK | O_CLOEXEC) == 0);
  const int both = open(("/proc/self/fd/" + std::to_string(bell[1])).c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC);
  REQUIRE(both >= 0);
  close(bell[0]);
  close(bell[1]);

  for (int i = 0; i < 100'000; ++i) bell::Ring({both, true});

  sigset_t pending;
  sigpending(&pending);
  CHECK_FALSE(sigismember(&pending, SIGPIPE));
  CHECK(bell::Empty(both));
  close(both);
}

TEST_CASE("a signal that the program had blocked is not left behind either, and one that was waiting stays") {
  int bell[2];
  REQUIRE(pipe2(bell, O_NONBLOCK | O_CLOEXEC) == 0);
  close(bell[0]);
  sigset_t block, before, pending;
  sigemptyset(&block);
  sigaddset(&block, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &block, &before);

  bell::Ring({bell[1]});
  sigpending(&pending);
  CHECK_FALSE(sigismember(&pending, SIGPIPE));
  raise(SIGPIPE);
  bell::Ring({bell[1]});
  sigpending(&pending);
  CHECK(sigismember(&pending, SIGPIPE));

  const timespec now = {};
  sigtimedwait(&block, nullptr, &now);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  close(bell[1]);
}

}  // namespace
}  // namespace heterok8s::heterosock
