#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "heterosock/tests/program.h"
#include "heterosock/tests/program_calls.h"

namespace heterok8s::heterosock::behaviour {
namespace {

class Runner {
 public:
  Runner(End& end, const std::vector<ProgramStep>& program) : e(end), program_(program) {
    for (int& ep : sets_) ep = epoll_create1(0);
  }

  void Connect() {
    for (std::vector<int>& fds : fds_) {
      int fd = me() == 0 ? e.Accept() : e.Connect();
      fds.push_back(fd);
      e.Meet();
      if (e.warm()) e.Warm(fd);
    }
  }

  // From the start each end watches both connections, one by level and one by edge.
  void Watch() {
    epoll_event event{EPOLLIN | EPOLLRDHUP, {.u64 = 100}};
    epoll_ctl(sets_[0], EPOLL_CTL_ADD, fds_[0][0], &event);
    event = {EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.u64 = 101}};
    epoll_ctl(sets_[0], EPOLL_CTL_ADD, fds_[1][0], &event);
    epoll_ctl(sets_[1], EPOLL_CTL_ADD, fds_[0][0], &event);
  }

  void Run() {
    for (size_t i = 0; i < program_.size(); ++i) {
      const ProgramStep& step = program_[i];
      e.Meet();
      if (step.act == Act::kClose) {
        // A close that resets throws away what was not sent yet, as small writes that wait for an acknowledgement
        // (tcp(7), TCP_NODELAY) are: how much the other end still gets would be a matter of time. It has all of it.
        if (step.end != me()) Settle();
        e.Meet();
      }
      if (step.end == me()) {
        e.Say("%zu: %s", i, Describe(step).c_str());
        Settle();
        ActAs(step);
      } else if (step.act == Act::kBulk) {
        e.Say("%zu: %s", i, Describe(step).c_str());
        ReadBulk(step);
      } else if (HandsOn(step)) {
        Attend(static_cast<int>(i) + 1);
      }
      if (HandsOn(step) && step.end == me()) e.Tell(static_cast<int>(i) + 1);
      Account(step);
      if (HandsOn(step)) {
        e.Meet();
        Settle();
        EmptySets();
      }
      e.NoteMoved(Any());
    }
    e.Meet();
    Finish();
  }

 private:
  int me() const { return static_cast<int>(e.role); }
  int Any() const { return fds_[0].empty() ? (fds_[1].empty() ? -1 : fds_[1][0]) : fds_[0][0]; }
  int Fd(int conn, uint32_t which) const { return fds_[conn][which % fds_[conn].size()]; }

  // Everything that was sent to this end has arrived.
  void Settle() {
    for (int conn : {0, 1}) {
      if (fds_[conn].empty()) continue;
      int fd = fds_[conn][0];
      if (reset_[conn])
        e.Await(fd, POLLHUP);
      else if (in_flight_[conn][1 - me()] > 0)
        e.AwaitBytes(fd, static_cast<int>(in_flight_[conn][1 - me()]));
      if (ended_[conn][1 - me()] && !reset_[conn]) e.Await(fd, POLLRDHUP);
    }
  }

  static bool HandsOn(const ProgramStep& step) { return step.act == Act::kOption || step.act == Act::kSpawn; }

  // Bytes that follow a connection to TCP arrive there once more, which is an edge where Linux has none.
  void EmptySets() {
    for (int i = 0; i < 6; ++i) {
      epoll_event events[16];
      epoll_wait(sets_[i % 2], events, 16, 0);
    }
  }

  // The other end may put a connection on TCP, or both, as another program inherits both: bytes of this end follow when
  // it makes a call, at the latest.
  void Attend(int told) {
    const auto until = std::chrono::steady_clock::now() + kDeadline;
    while (e.Told() != told && std::chrono::steady_clock::now() < until) {
      pollfd mine[2];
      for (int conn : {0, 1}) mine[conn] = {fds_[conn].empty() ? -1 : fds_[conn][0], POLLRDHUP, 0};
      if (poll(mine, 2, 1) > 0) usleep(500);
    }
  }

  // What the step did to the streams; both ends keep the same account.
  void Account(const ProgramStep& step) {
    uint32_t& out = in_flight_[step.conn][step.end];
    uint32_t& in = in_flight_[step.conn][1 - step.end];
    if (step.act == Act::kSend && !ended_[step.conn][step.end]) out += step.a;
    if (step.act == Act::kBulk) out = 0;
    if (step.act == Act::kReceive && (step.b < 8 || step.b == 10)) in -= std::min(in, step.a);
    if (step.act == Act::kSplice) in -= std::min(in, step.a);
    if (step.act == Act::kSpawn) (step.b& 1 ? in -= step.a : out += step.a);
    if (step.act == Act::kShutRead) deaf_[step.conn][step.end] = true;
    if (step.act == Act::kHalfClose) ended_[step.conn][step.end] = true;
    if (step.act == Act::kClose) {
      ended_[step.conn][step.end] = true;
      // Linux resets when bytes are unread, or when asked to.
      if (in > 0 || step.a) reset_[step.conn] = true;
    }
  }

  void ActAs(const ProgramStep& step) {
    switch (step.actor) {
      case Actor::kSelf:
        return Call(step);
      case Actor::kThread:
        std::thread([&] { Call(step); }).join();
        return;
      case Actor::kChild: {
        pid_t child = fork();
        if (child == 0) {
          Call(step);
          _exit(0);
        }
        int status = -1;
        waitpid(child, &status, 0);
        e.Say("child %d", status);
      }
    }
  }

  void Call(const ProgramStep& step) {
    int fd = Fd(step.conn, step.b);
    std::vector<int>& fds = fds_[step.conn];
    switch (step.act) {
      case Act::kSend:
        return SendAs(e, fd, step);
      case Act::kReceive: {
        const uint32_t there = in_flight_[step.conn][1 - me()];
        return ReceiveAs(e, fd, step, there, there > 0 || AtEnd(step.conn));
      }
      case Act::kSplice:
        return SpliceAs(e, fd, step, in_flight_[step.conn][1 - me()], AtEnd(step.conn));
      case Act::kShutRead:
        DO(shutdown(fd, SHUT_RD));
        return;
      case Act::kOption:
        return SetOption(e, fd, step);
      case Act::kSpawn:
        return SpawnAs(e, fd, step);
      case Act::kBulk: {
        std::string bytes = Pattern(step.a, step.b);
        for (size_t at = 0, i = 0; at < bytes.size(); ++i) {
          size_t n = std::min(bytes.size() - at, size_t{1} + (i * 7919 + step.b) % 40'000);
          e.SendAll(fd, {bytes.data() + at, n});
          at += n;
        }
        return;
      }
      case Act::kPoll:
        return PollAs(e, fd, fds_[1 - step.conn].empty() ? -1 : fds_[1 - step.conn][0], step);
      case Act::kCount: {
        int in = -1, out = -1;
        DO(ioctl(fd, FIONREAD, &in));
        for (int i = 0; i < 2000; ++i) {
          if (ioctl(fd, SIOCOUTQ, &out) != 0 || out == 0 || in_flight_[step.conn][me()] > 0) break;
          usleep(500);
        }
        e.Say("in %d", in);
        return;
      }
      case Act::kDuplicate:
        fds.push_back(step.a == 0 ? dup(fd) : step.a == 1 ? fcntl(fd, F_DUPFD_CLOEXEC, 64) : fcntl(fd, F_DUPFD, 32));
        e.Say("copy %d", fds.back() >= 0);
        return;
      case Act::kCloseCopy: {
        size_t which = step.a % fds.size();
        DO(close(fds[which]) == 0);
        fds.erase(fds.begin() + static_cast<std::ptrdiff_t>(which));
        return;
      }
      case Act::kOverwrite:
        DO(dup2(fds[0], fds.back()) == fds.back());
        return;
      case Act::kNonBlock:
        DO(fcntl(fd, F_SETFL, step.a ? O_NONBLOCK : 0));
        return;
      case Act::kEpollAdd:
      case Act::kEpollMod:
      case Act::kEpollDel: {
        epoll_event event{step.a, {.u64 = step.b % 7 * 10 + static_cast<uint32_t>(step.conn)}};
        int operation = step.act == Act::kEpollAdd   ? EPOLL_CTL_ADD
                        : step.act == Act::kEpollMod ? EPOLL_CTL_MOD
                                                     : EPOLL_CTL_DEL;
        DO(epoll_ctl(sets_[step.b / 7 % 2], operation, fd, &event));
        return;
      }
      case Act::kEpollWait:
        return WaitOn(e, sets_[step.b % 2], static_cast<int>(step.b / 2 % 3 * 3));
      case Act::kHalfClose:
        DO(shutdown(fd, SHUT_WR));
        AwaitFinAcknowledged(fd);
        return;
      case Act::kClose: {
        linger now{1, 0};
        if (step.a) setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        for (int each : fds) DO(close(each) == 0);
        fds.clear();
        return;
      }
      case Act::kTimeout:
      case Act::kSignal:
        return WaitInVain(e, fd, step);
      case Act::kError: {
        int error = -1;
        socklen_t length = sizeof error;
        DO(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length));
        e.Say("%s", strerrorname_np(error));
        return;
      }
    }
  }

  bool AtEnd(int conn) const { return ended_[conn][1 - me()] || deaf_[conn][me()] || reset_[conn]; }

  void ReadBulk(const ProgramStep& step) {
    if (fds_[step.conn].empty()) return;
    size_t all = in_flight_[step.conn][step.end] + step.a;
    int fd = Fd(step.conn, step.b);
    uint64_t sum = Sum("");
    for (size_t have = 0, i = 0; have < all; ++i) {
      size_t n = std::min(all - have, size_t{1} + (i * 104'729 + step.b) % 50'000);
      std::string bytes = e.RecvAll(fd, n);
      if (bytes.size() < n) return;
      sum = Sum(bytes, sum);
      have += n;
    }
    e.Say("bulk of %zu sum %llx", all, static_cast<unsigned long long>(sum));
  }

  // Each end says what is left to read after both have said their end.
  void Finish() {
    for (std::vector<int>& fds : fds_) {
      for (size_t i = 1; i < fds.size(); ++i) close(fds[i]);
      if (!fds.empty()) {
        fcntl(fds[0], F_SETFL, 0);
        shutdown(fds[0], SHUT_WR);
        e.Drain(fds[0], 7001);
        close(fds[0]);
      }
    }
    e.Meet();
  }

  End& e;
  const std::vector<ProgramStep>& program_;
  std::vector<int> fds_[2];  // of each connection: its descriptors
  int sets_[2];
  uint32_t in_flight_[2][2] = {};  // of each connection, by role of the sender
  bool ended_[2][2] = {};
  bool reset_[2] = {};
  bool deaf_[2][2] = {};  // which end has shut its reading
};

}  // namespace

void RunProgram(End& end, uint64_t seed, size_t steps) {
  signal(SIGPIPE, SIG_IGN);
  std::vector<ProgramStep> program = MakeProgram(seed, steps);
  if (end.role == Role::kServer) end.listener = end.Listen();
  end.Meet();
  Runner runner(end, program);
  runner.Connect();
  runner.Watch();
  end.Meet();
  runner.Run();
}

}  // namespace heterok8s::heterosock::behaviour
