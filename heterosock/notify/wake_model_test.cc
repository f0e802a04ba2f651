// Every order in which a sender and a receiver can meet around the switch to shared memory, tried one by one: whatever
// the order, the receiver is awake in the end when there is something to read.
//
// The two run as small programs over the words of layout/channel.h. Stores go through a store buffer and reach memory
// at any later moment, as on x86; a full fence waits for the buffer. The variants at the end leave out one rule of the
// real code each, and there a lost wake-up must be found: else the model would prove nothing.
#include <catch2/catch.hpp>

#include <array>
#include <cstdint>
#include <set>
#include <vector>

namespace {

// The rules that stream/, upgrade/ and notify/bell.h keep.
struct Rules {
  bool sender_fences = true;        // between tail and the look at rx_sleep
  bool receiver_fences = true;      // between rx_sleep and the second look
  bool compares_first_look = true;  // waits for a switch newer than the one that the look at TCP saw
  bool asks_before_armed = true;    // a set that sleeps already has its bell asked for before the epoch is published
  bool leaves_patient_only = true;  // of those that sleep, who said that it looks again by itself
  bool arms_when_tired = true;      // anew, and looks, before it sleeps without a limit
};

enum Word : uint8_t { kArmedEpoch, kSwitchAt, kTail, kRxSleep, kRxPatient, kWords };
using Words = std::array<uint8_t, kWords>;

struct Thread {
  uint8_t at = 0;    // the next step of its program
  uint8_t seen = 0;  // a register
  uint8_t buffered = 0;
  std::array<std::array<uint8_t, 2>, 4> buffer{};
  auto operator<=>(const Thread&) const = default;
};

struct State {
  Words memory{};
  uint8_t tcp = 0;      // messages in the socket's queue
  uint8_t rung = 0;     // the bell
  uint8_t sent = 0;     // messages the sender has sent, of kMessages
  uint8_t read = 0;     // messages the receiver has
  uint8_t head = 0;     // of them from the ring
  uint8_t in_ring = 0;  // the receiver reads the ring
  uint8_t limited = 0;  // and its sleep ends by itself
  uint8_t tired = 0;    // the last one did
  Thread sender, receiver;
  auto operator<=>(const State&) const = default;
};

constexpr uint8_t kMessages = 3;

class Explorer {
 public:
  // `set`: the receiver waits in an epoll set, which was asleep when its connection was armed; else in recv(). `more`:
  // it is patient, and the sender says of each message that more is to come, though none does.
  Explorer(const Rules& rules, bool set, bool more = false) : rules_(rules), set_(set), more_(more) {}

  // True when some order ends with the receiver asleep and something to read.
  bool FindsLostWake() {
    std::vector<State> open{State{}};
    seen_.insert(open.back());
    while (!open.empty()) {
      const State state = open.back();
      open.pop_back();
      next_.clear();
      Drain(state, &State::sender);
      Drain(state, &State::receiver);
      Send(state);
      set_ ? WaitInSet(state) : Receive(state);
      if (next_.empty() && state.read < kMessages) return true;
      for (const State& each : next_) {
        if (seen_.insert(each).second) open.push_back(each);
      }
    }
    return false;
  }
  size_t states() const { return seen_.size(); }

 private:
  static uint8_t Load(const State& state, const Thread& thread, Word word) {
    for (int i = thread.buffered; i-- > 0;) {
      if (thread.buffer[static_cast<size_t>(i)][0] == word) return thread.buffer[static_cast<size_t>(i)][1];
    }
    return state.memory[word];
  }
  static bool Store(Thread& thread, Word word, uint8_t value) {
    if (thread.buffered == thread.buffer.size()) return false;
    thread.buffer[thread.buffered++] = {word, value};
    return true;
  }

  void Drain(const State& state, Thread State::*which) {
    if ((state.*which).buffered == 0) return;
    State after = state;
    Thread& thread = after.*which;
    after.memory[thread.buffer[0][0]] = thread.buffer[0][1];
    for (size_t i = 1; i < thread.buffered; ++i) thread.buffer[i - 1] = thread.buffer[i];
    thread.buffer[--thread.buffered] = {};
    next_.push_back(after);
  }

  // at 0: which way; 1: tail; 2: fence; 3: look at rx_sleep, perhaps ring.
  void Send(const State& state) {
    if (state.sent == kMessages) return;
    State after = state;
    Thread& self = after.sender;
    switch (self.at) {
      case 0:
        if (Load(state, self, kSwitchAt) == 0) {
          if (Load(state, self, kArmedEpoch) == 0) {
            ++after.tcp;  // a system call: no store of ours can pass it
            ++after.sent;
            if (self.buffered != 0) return;
            break;
          }
          if (!Store(self, kSwitchAt, static_cast<uint8_t>(1 + state.sent))) return;
        }
        self.at = 1;
        break;
      case 1:
        if (!Store(self, kTail, static_cast<uint8_t>(Load(state, self, kTail) + 1))) return;
        self.at = 2;
        break;
      case 2:
        if (rules_.sender_fences && self.buffered != 0) return;
        self.at = 3;
        break;
      case 3: {
        const uint8_t sleeps = Load(state, self, kRxSleep);
        const bool leave = more_ && (!rules_.leaves_patient_only || Load(state, self, kRxPatient) == sleeps);
        if (sleeps % 2 == 1 && sleeps != self.seen && !leave) {
          self.seen = sleeps;  // rung for
          after.rung = 1;
        }
        ++after.sent;
        self.at = 0;
        break;
      }
    }
    next_.push_back(after);
  }

  // recv(): 0 arms; 1 counts TCP; 2 looks at switch_at; 3 the ring; 4 empties the bell; 5 says that it sleeps; 6 fence;
  // 7 looks again; 8 sleeps. 9, before 5: says whether it is patient.
  void Receive(const State& state) {
    if (state.read == kMessages) return;
    State after = state;
    Thread& self = after.receiver;
    switch (self.at) {
      case 0:
        if (!Store(self, kArmedEpoch, 1)) return;
        self.at = 1;
        break;
      case 1:
        if (state.in_ring) {
          self.at = 3;
        } else if (state.tcp > 0) {
          --after.tcp;  // which came before a switch, as it is looked at first
          ++after.read;
        } else {
          self.at = 2;
        }
        break;
      case 2:
        self.seen = Load(state, self, kSwitchAt);
        if (self.seen != 0 && self.seen - 1 == state.read) after.in_ring = 1;
        self.at = self.seen != 0 ? 1 : 4;
        break;
      case 3:
        self.at = 4;
        if (Load(state, self, kTail) != state.head) {
          ++after.head;
          ++after.read;
          self.at = 1;
        }
        break;
      case 4:
        after.rung = 0;
        if (!rules_.compares_first_look) self.seen = Load(state, self, kSwitchAt);
        self.at = 9;
        break;
      case 9:
        after.limited = more_ && !state.tired;
        if (!Store(self, kRxPatient, after.limited ? NextSleep(state, self) : uint8_t{0})) return;
        self.at = 5;
        break;
      case 5:
        if (!Ask(state, self)) return;
        self.at = 6;
        break;
      case 6:
        if (rules_.receiver_fences && self.buffered != 0) return;
        self.at = 7;
        break;
      case 7: {
        const bool changed =
            state.in_ring ? Load(state, self, kTail) != state.head : Load(state, self, kSwitchAt) != self.seen;
        self.at = changed ? 1 : 8;
        break;
      }
      case 8:
        if (self.buffered != 0) return;  // a system call
        if (state.limited) {
          State later = state;
          later.limited = 0;
          later.tired = 1;
          if (rules_.arms_when_tired) later.receiver.at = 1;
          next_.push_back(later);
        }
        if (state.tcp == 0 && state.rung == 0) return;
        after.tired = 0;
        self.at = 1;
        break;
    }
    next_.push_back(after);
  }

  // Another thread arms while this one sleeps in the set: 0 asks for the bell; 1 arms; 2 sleeps; 3 reads what is there.
  void WaitInSet(const State& state) {
    if (state.read == kMessages) return;
    State after = state;
    Thread& self = after.receiver;
    switch (self.at) {
      case 0:
        if (rules_.asks_before_armed ? !Ask(state, self) : !Store(self, kArmedEpoch, 1)) return;
        self.at = 1;
        break;
      case 1:
        if (rules_.asks_before_armed ? !Store(self, kArmedEpoch, 1) : !Ask(state, self)) return;
        self.at = 2;
        break;
      case 2:
        if (self.buffered != 0) return;
        if (state.tcp == 0 && state.rung == 0) return;
        self.at = 3;
        break;
      default:
        // From here on it is recv()'s order, which the other model covers: it stays awake.
        if (state.tcp > 0) {
          --after.tcp;
        } else if (state.memory[kTail] != state.head) {
          ++after.head;
        } else {
          return;
        }
        ++after.read;
    }
    next_.push_back(after);
  }

  static uint8_t NextSleep(const State& state, const Thread& self) {
    return static_cast<uint8_t>((Load(state, self, kRxSleep) + 1) | 1);
  }
  static bool Ask(const State& state, Thread& self) { return Store(self, kRxSleep, NextSleep(state, self)); }

  const Rules rules_;
  const bool set_, more_;
  std::set<State> seen_;
  std::vector<State> next_;
};

}  // namespace

TEST_CASE("no order of sends, looks and sleeps around the switch loses a wake-up") {
  Explorer in_recv({}, false), in_set({}, true), patient({}, false, true);

  CHECK_FALSE(in_recv.FindsLostWake());
  CHECK(in_recv.states() > 1000);
  CHECK_FALSE(in_set.FindsLostWake());
  CHECK_FALSE(patient.FindsLostWake());
  CHECK(patient.states() > in_recv.states());
}

TEST_CASE("each rule of sleeping and waking is needed") {
  struct {
    const char* rule;
    Rules rules;
    bool set, more;
  } const kBroken[] = {
      {"the sender fences", {.sender_fences = false}, false, false},
      {"the receiver fences", {.receiver_fences = false}, false, false},
      {"a switch is compared with the first look", {.compares_first_look = false}, false, false},
      {"the bell is asked for before arming", {.asks_before_armed = false}, true, false},
      {"who is not patient is woken for a part too", {.leaves_patient_only = false}, false, true},
      {"who was patient arms anew", {.arms_when_tired = false}, false, true},
      {"the sender fences before it leaves a patient one asleep", {.sender_fences = false}, false, true},
      {"a patient receiver fences", {.receiver_fences = false}, false, true},
  };
  for (const auto& broken : kBroken) {
    INFO(broken.rule);

    CHECK(Explorer(broken.rules, broken.set, broken.more).FindsLostWake());
  }
}
