#include "heterosock/tests/program.h"

#include <poll.h>
#include <sys/epoll.h>

#include <algorithm>
#include <random>

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr uint32_t kMostInFlight = 40'000;  // bytes; fits every socket buffer of Linux' defaults, and a first ring

struct Way {  // one direction of one connection
  uint32_t in_flight = 0;
  bool ended = false;
};

struct Conn {
  Way from[2];        // by role of the sender
  bool deaf[2] = {};  // that end has shut its reading: the other sends no more
  int copies[2] = {1, 1};
  bool closed[2] = {};
  bool gone() const { return closed[0] || closed[1]; }
};

const uint32_t kEpollFlags[] = {EPOLLIN,
                                EPOLLOUT,
                                EPOLLIN | EPOLLOUT,
                                EPOLLIN | EPOLLET,
                                EPOLLIN | EPOLLOUT | EPOLLET,
                                EPOLLIN | EPOLLRDHUP,
                                EPOLLIN | EPOLLRDHUP | EPOLLET,
                                EPOLLIN | EPOLLONESHOT,
                                EPOLLOUT | EPOLLONESHOT,
                                EPOLLIN | EPOLLET | EPOLLONESHOT,
                                0};
const short kPollMasks[] = {
    POLLIN, POLLOUT, POLLIN | POLLOUT, POLLIN | POLLRDHUP, POLLIN | POLLOUT | POLLRDHUP | POLLPRI, 0};

class Maker {
 public:
  explicit Maker(uint64_t seed) : random_(seed) {}

  // A step that the state allows; changes the state as the step does.
  ProgramStep Next() {
    while (true) {
      ProgramStep step;
      step.end = static_cast<int>(Below(2));
      step.conn = static_cast<int>(Below(2));
      if (Try(step)) return step;
    }
  }

 private:
  uint32_t Below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }
  uint32_t Size(uint32_t most) {  // small ones often
    uint32_t bits = Below(17);
    return most == 0 ? 0 : 1 + Below(std::min(most, 1u << bits));
  }
  void SomeActor(ProgramStep& step) {
    uint32_t dice = Below(24);
    step.actor = dice == 0 ? Actor::kChild : dice < 4 ? Actor::kThread : Actor::kSelf;
  }

  bool Try(ProgramStep& step) {
    Conn& conn = conns_[step.conn];
    if (conn.closed[step.end]) return false;
    Way &out = conn.from[step.end], &in = conn.from[1 - step.end];
    uint32_t dice = Below(106);
    if (dice >= 100) return TryRare(step, conn, dice);
    if (dice < 24) return Send(step, conn, out);
    if (dice < 50) return Receive(step, in);
    if (dice < 54) {
      step.act = Act::kBulk;
      if (conn.gone() || out.ended || conn.deaf[1 - step.end]) return false;
      step.a = 50'000 + Below(700'000);
      step.b = Below(1000);
      out.in_flight = 0;
      return true;
    }
    if (dice < 61) {
      step.act = Act::kPoll;
      step.a = static_cast<uint32_t>(kPollMasks[Below(6)]);
      step.b = Below(3);
      return true;
    }
    if (dice < 65) return step.act = Act::kCount, true;
    if (dice < 69) {
      step.act = Act::kDuplicate;
      step.a = Below(3);
      return conn.copies[step.end]++ < 3;
    }
    if (dice < 72) {
      step.act = Act::kCloseCopy;
      step.a = Below(4);
      return conn.copies[step.end] > 1 && conn.copies[step.end]--;
    }
    if (dice < 74) return step.act = Act::kOverwrite, conn.copies[step.end] > 1;
    if (dice < 76) {
      step.act = Act::kNonBlock;
      step.a = Below(2);
      return true;
    }
    if (dice < 93) {
      step.act = dice < 81 ? Act::kEpollAdd : dice < 84 ? Act::kEpollMod : dice < 85 ? Act::kEpollDel : Act::kEpollWait;
      step.a = kEpollFlags[Below(11)];
      step.b = Below(1000);
      return true;
    }
    if (dice < 94) return step.act = Act::kError, true;
    if (dice < 96) {
      step.act = Below(2) ? Act::kTimeout : Act::kSignal;
      return in.in_flight == 0 && !in.ended && !conn.closed[1 - step.end] && !conn.deaf[step.end];
    }
    if (dice < 98) {
      step.act = Act::kHalfClose;
      if (out.ended || conn.gone() || (conn.deaf[step.end] && in.in_flight > 0)) return false;
      return out.ended = true;
    }
    if (Below(4)) return false;  // else programs would be short
    step.act = Act::kClose;
    step.a = Below(3) == 0;
    return conn.closed[step.end] = true;
  }

  bool TryRare(ProgramStep& step, Conn& conn, uint32_t dice) {
    Way &out = conn.from[step.end], &in = conn.from[1 - step.end];
    step.b = Below(1000);
    if (conn.gone()) return false;
    if (dice < 103) {
      step.act = Act::kSplice;
      step.a = Size(60'000);
      in.in_flight -= std::min(in.in_flight, step.a);
      return true;
    }
    if (dice < 104) {
      step.act = Act::kShutRead;
      // Both ways with bytes unread: a known difference (limits.cc).
      if (conn.deaf[step.end] || (out.ended && in.in_flight > 0)) return false;
      return Below(4) == 0 && (conn.deaf[step.end] = true);
    }
    if (dice < 105) return step.act = Act::kOption, true;
    step.act = Act::kSpawn;
    if (in.in_flight > 0 && Below(2)) {  // it reads
      step.a = std::min(in.in_flight, Size(60'000));
      step.b |= 1;
      in.in_flight -= step.a;
      return true;
    }
    step.a = Size(kMostInFlight - out.in_flight);
    step.b &= ~1u;
    if (out.ended || conn.deaf[1 - step.end] || step.a == 0) return false;
    out.in_flight += step.a;
    return true;
  }

  bool Send(ProgramStep& step, Conn& conn, Way& out) {
    if (conn.gone() || conn.deaf[1 - step.end]) return false;
    step.act = Act::kSend;
    step.a = out.ended ? Size(100) : Size(kMostInFlight - out.in_flight);
    step.b = Below(9);
    SomeActor(step);
    if (!out.ended) out.in_flight += step.a;
    return true;
  }

  bool Receive(ProgramStep& step, Way& in) {
    step.act = Act::kReceive;
    step.a = Size(60'000);
    step.b = Below(11);
    SomeActor(step);
    bool peeks = step.b >= 8 && step.b < 10;
    if (!peeks) in.in_flight -= std::min(in.in_flight, step.a);
    return true;
  }

  std::mt19937_64 random_;
  Conn conns_[2];
};

}  // namespace

std::vector<ProgramStep> MakeProgram(uint64_t seed, size_t steps) {
  Maker maker(seed);
  std::vector<ProgramStep> program;
  while (program.size() < steps) program.push_back(maker.Next());
  return program;
}

std::string Describe(const ProgramStep& step) {
  static constexpr const char* kActs[] = {"send",      "receive",   "bulk",     "poll",     "count",    "duplicate",
                                          "closeCopy", "overwrite", "nonBlock", "epollAdd", "epollMod", "epollDel",
                                          "epollWait", "halfClose", "close",    "timeout",  "signal",   "error",
                                          "splice",    "shutRead",  "option",   "spawn"};
  static constexpr const char* kActors[] = {"", " by a thread", " by a child"};
  return std::string(step.end == 0 ? "server " : "client ") + kActs[static_cast<int>(step.act)] +
         kActors[static_cast<int>(step.actor)] + " conn " + std::to_string(step.conn) + " a " + std::to_string(step.a) +
         " b " + std::to_string(step.b);
}

}  // namespace heterok8s::heterosock::behaviour
