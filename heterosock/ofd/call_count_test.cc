#include "heterosock/ofd/call_count.h"

#include <signal.h>

#include <catch2/catch.hpp>
#include <chrono>
#include <thread>
#include <vector>

namespace heterok8s::heterosock {

thread_local constinit ThreadState thread_state;

namespace {

TEST_CASE("bytes and calls of all threads are counted, whoever owns the count") {
  CallCount::Start();
  CallCount calls;
  const auto use = [&calls](long bytes) {
    for (int i = 0; i < 100'000; ++i) {
      calls.Enter();
      calls.Leave(bytes);
    }
  };

  std::vector<std::thread> threads;
  for (long bytes : {1, 10, 100}) threads.emplace_back(use, bytes);
  for (std::thread& each : threads) each.join();

  CHECK(calls.bytes() == 11'100'000);
  CHECK(calls.inside() == 0);
}

CallCount* interrupted = nullptr;
volatile sig_atomic_t signals = 0;

TEST_CASE("a signal handler may make the call that it interrupts") {
  CallCount::Start();
  CallCount calls;
  interrupted = &calls;
  signals = 0;
  struct sigaction action {};
  action.sa_handler = [](int) {
    interrupted->Enter();
    interrupted->Leave(1000);
    signals = signals + 1;
  };
  REQUIRE(sigaction(SIGUSR1, &action, nullptr) == 0);
  std::atomic<bool> over{false};
  const pthread_t self = pthread_self();
  std::thread sender([&] {
    for (int i = 0; i < 10'000; ++i) pthread_kill(self, SIGUSR1);
    over = true;
  });

  uint64_t made = 0;
  for (; !over.load(std::memory_order_relaxed); ++made) {
    calls.Enter();
    calls.Leave(1);
  }
  sender.join();

  CHECK(calls.bytes() == made + 1000 * static_cast<uint64_t>(signals));
  CHECK(calls.inside() == 0);
  signal(SIGUSR1, SIG_DFL);
}

// Without the barrier in Settle() this finds callers inside within a second on two CPUs.
TEST_CASE("nobody is inside once Settle() and inside() say so") {
  CallCount::Start();
  // On lines of their own: what the owner reads is there at once, while what it wrote is under way.
  alignas(128) CallCount calls;
  alignas(128) std::atomic<bool> moved{false};
  alignas(128) std::atomic<uint64_t> in_kernel{0};
  alignas(128) std::atomic<bool> owned{false}, over{false};
  std::thread owner([&] {
    while (!over.load(std::memory_order_relaxed)) {
      calls.Enter();
      owned.store(true, std::memory_order_relaxed);
      if (moved.load(std::memory_order_seq_cst)) {
        calls.Leave(0);
        while (moved.load(std::memory_order_relaxed) && !over.load(std::memory_order_relaxed)) Relax();
        continue;
      }
      in_kernel.store(in_kernel.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
      calls.Leave(1);
      for (int pause = 0; pause < 50; ++pause) Relax();
    }
  });
  while (!owned.load(std::memory_order_relaxed)) std::this_thread::yield();

  int settled = 0, inside = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (settled < 50'000 && std::chrono::steady_clock::now() < end) {
    // Takes the line of the count away, as another user of the socket does.
    calls.Enter();
    calls.Leave(0);
    moved.store(true, std::memory_order_seq_cst);
    if (calls.Settle() && calls.inside() == 0) {
      ++settled;
      const uint64_t before = in_kernel.load(std::memory_order_relaxed);
      for (int look = 0; look < 100; ++look) {
        if (in_kernel.load(std::memory_order_relaxed) == before) continue;
        ++inside;
        break;
      }
    } else {
      std::this_thread::yield();
    }
    moved.store(false, std::memory_order_seq_cst);
    for (int look = settled % 64; look > 0; --look) calls.inside();
  }
  over = true;
  owner.join();

  CHECK(inside == 0);
  CHECK(settled == 50'000);
}

}  // namespace
}  // namespace heterok8s::heterosock
