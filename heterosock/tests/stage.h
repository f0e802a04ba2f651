// The stage of one case: memory shared by the runner and every process of the case.
//
// Ends write what they did here and meet here, so neither needs a descriptor that a case could close, duplicate or
// count. Made by the runner as a memfd; the others open it through /proc/RUNNER/fd/N, also after exec.
// Threading: all fields are atomic or have one writer. Wait() is bounded by kDeadline.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace heterok8s::heterosock::behaviour {

// Longer than any case takes on a slow machine with much other work; a case that needs it has failed.
constexpr std::chrono::seconds kDeadline{20};
constexpr size_t kTraceBytes = 256 << 10;

struct Trace {
  std::atomic<uint32_t> length;
  char text[kTraceBytes];

  void Append(std::string_view line);  // from any thread and process; whole lines, in the order of the calls
  std::string Text() const { return std::string(text, length.load()); }
};

// What both ends tell each other beside the connection under test.
struct Stage {
  std::atomic<uint32_t> arrived[2];  // how often each end has met the other; futex words
  std::atomic<uint32_t> port;        // of the server's listener
  std::atomic<int32_t> said[2];      // a number for the other end, read after the next meeting
  std::atomic<uint32_t> moved[2];    // what heterosock_moved() last said: 3 = both directions on shared memory
  std::atomic<uint32_t> faulty;      // 1: the fault of this run has been committed
  std::atomic<uint32_t> can_move;    // 1: nothing keeps a warm connection of this run on TCP, so it is waited for
  Trace trace[2];
};

// The stage named by the environment variable HETEROSOCK_STAGE; aborts when there is none.
Stage* OpenStage();

// Waits until `word` is at least `value`; false when kDeadline passed.
bool WaitFor(std::atomic<uint32_t>& word, uint32_t value);
void Wake(std::atomic<uint32_t>& word);

}  // namespace heterok8s::heterosock::behaviour
