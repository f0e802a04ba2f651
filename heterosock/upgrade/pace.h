// How many offers are under way at once, by what became of the last ones. A process that has no room for another
// channel (no descriptors, no memory) is paired in vain, and the agent and the other end have worked for nothing. So
// after such a pair no offer is made for a second, for twice as long when the next one is in vain too, and for a minute
// at most. Then one is made, and one more at once for each that was mapped; and twice as many with each second in which
// no pair was in vain, as what is offered to an end without the library is never mapped, and lasts.
//
// Threading: the caller has the agent's lock. `now` is Nanoseconds().
//
//   if (!pace.Allows(offers_without_an_answer, now)) return;
//   ... PAIRED:
//   if (mapped) pace.Mapped();
//   else if (pace.NoRoom(now)) Trace("no room for another channel: no offer for %u ms", pace.pause_ms());
#pragma once

#include <stdint.h>

namespace heterok8s::heterosock {

class Pace {
 public:
  static constexpr uint32_t kFirstMs = 1000;
  static constexpr uint32_t kLongestMs = 60'000;

  // `pending` are without an answer.
  bool Allows(uint32_t pending, uint64_t now) const { return now >= until_ && pending < Window(now); }

  void Mapped() {
    pause_ms_ = 0;
    if (window_ < kAny) ++window_;
  }

  // True when a pause begins: pairs of offers that were made before one are no news.
  bool NoRoom(uint64_t now) {
    if (now < until_) return false;
    pause_ms_ = pause_ms_ == 0 ? kFirstMs : pause_ms_ * 2 < kLongestMs ? pause_ms_ * 2 : kLongestMs;
    until_ = now + uint64_t{pause_ms_} * 1'000'000;
    window_ = 1;
    return true;
  }

  uint32_t pause_ms() const { return pause_ms_; }
  bool Pauses(uint64_t now) const { return now < until_; }

 private:
  static constexpr uint32_t kAny = ~uint32_t{0};

  uint64_t Window(uint64_t now) const {
    const uint64_t seconds = (now - until_) / 1'000'000'000;
    return seconds < 32 ? uint64_t{window_} << seconds : kAny;
  }

  uint64_t until_ = 0;
  uint32_t pause_ms_ = 0;
  uint32_t window_ = kAny;
};

}  // namespace heterok8s::heterosock
