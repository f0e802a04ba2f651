#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "heterosock/tests/program.h"

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
      if (step.end == me()) {
        e.Say("%zu: %s", i, Describe(step).c_str());
        Settle();
        ActAs(step);
      } else if (step.act == Act::kBulk) {
        e.Say("%zu: %s", i, Describe(step).c_str());
        ReadBulk(step);
      }
      Account(step);
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

  // What the step did to the streams; both ends keep the same account.
  void Account(const ProgramStep& step) {
    uint32_t& out = in_flight_[step.conn][step.end];
    uint32_t& in = in_flight_[step.conn][1 - step.end];
    if (step.act == Act::kSend && !ended_[step.conn][step.end]) out += step.a;
    if (step.act == Act::kBulk) out = 0;
    if (step.act == Act::kReceive && (step.b < 8 || step.b == 10)) in -= std::min(in, step.a);
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
        return Send(fd, step);
      case Act::kReceive:
        return Receive(fd, step);
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
        return Poll(fd, step);
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
        return Wait(sets_[step.b % 2], static_cast<int>(step.b / 2 % 3 * 3));
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
        return WaitInVain(fd, step);
      case Act::kError: {
        int error = -1;
        socklen_t length = sizeof error;
        DO(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length));
        e.Say("%s", strerrorname_np(error));
        return;
      }
    }
  }

  void Send(int fd, const ProgramStep& step) {
    std::string bytes = Pattern(step.a, step.b + step.a);
    char* at = bytes.data();
    size_t n = bytes.size(), half = n / 2;
    iovec parts[3] = {{at, half}, {at + half, 0}, {at + half, n - half}};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 3;
    switch (step.b) {
      case 0:
        DO(send(fd, at, n, MSG_NOSIGNAL));
        break;
      case 1:
        DO(sendto(fd, at, n, MSG_NOSIGNAL | MSG_DONTWAIT, nullptr, 0));
        break;
      case 2:
        DO(sendmsg(fd, &message, MSG_NOSIGNAL));
        break;
      case 3:
        DO(writev(fd, parts, 3));
        break;
      case 4: {
        mmsghdr messages[2]{};
        for (int i : {0, 1}) messages[i].msg_hdr.msg_iov = &parts[i * 2], messages[i].msg_hdr.msg_iovlen = 1;
        DO(sendmmsg(fd, messages, 2, MSG_NOSIGNAL));
        e.Say("%u %u", messages[0].msg_len, messages[1].msg_len);
        break;
      }
      case 5:
        DO(syscall(SYS_write, fd, at, n));
        break;
      case 6: {
        int file = memfd_create("hk-program", MFD_CLOEXEC);
        off_t offset = 0;
        if (write(file, at, n) == static_cast<ssize_t>(n)) DO(sendfile(fd, file, &offset, n));
        close(file);
        break;
      }
      case 7:
        DO(send(fd, at, half, MSG_NOSIGNAL | MSG_MORE));
        DO(send(fd, at + half, n - half, MSG_NOSIGNAL));
        break;
      default:
        DO(write(fd, at, n));
    }
  }

  void Receive(int fd, const ProgramStep& step) {
    bool reset = reset_[step.conn];
    uint32_t there = in_flight_[step.conn][1 - me()];
    bool some = there > 0 || ended_[step.conn][1 - me()] || reset;
    std::string bytes(step.a, '\0');
    char* at = bytes.data();
    size_t n = bytes.size(), half = n / 2;
    iovec parts[2] = {{at, half}, {at + half, n - half}};
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    int calm = some ? 0 : MSG_DONTWAIT;  // never wait for what will not come
    long got = -1;
    if (!some && (step.b == 0 || step.b == 4 || step.b == 5)) return e.Say("nothing to read");
    switch (step.b) {
      case 0:
        got = DO(read(fd, at, n));
        break;
      case 1:
        got = DO(recvfrom(fd, at, n, MSG_DONTWAIT, nullptr, nullptr));
        break;
      case 2:
        got = DO(recvmsg(fd, &message, calm));
        break;
      case 3:
        got = DO(recv(fd, at, n, n <= there ? MSG_WAITALL : MSG_DONTWAIT | MSG_WAITALL));
        break;
      case 4:
        got = DO(readv(fd, parts, 2));
        break;
      case 5:
        got = DO(syscall(SYS_read, fd, at, n));
        break;
      case 8:
        got = DO(recv(fd, at, n, MSG_PEEK | calm));
        break;
      case 9:
        got = DO(recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT));
        break;
      case 10:
        DO(recv(fd, nullptr, n, MSG_TRUNC | calm));
        break;
      default:
        got = DO(recv(fd, at, n, calm));
    }
    if (got > 0) e.Say("sum %llx", static_cast<unsigned long long>(Sum({at, static_cast<size_t>(got)})));
  }

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

  void Poll(int fd, const ProgramStep& step) {
    pollfd fds[2] = {{fd, static_cast<short>(step.a), 0},
                     {fds_[1 - step.conn].empty() ? -1 : fds_[1 - step.conn][0], POLLIN, 0}};
    if (step.b == 2) {
      fd_set read, write;
      FD_ZERO(&read);
      FD_ZERO(&write);
      FD_SET(fd, &read);
      FD_SET(fd, &write);
      timeval none{};
      DO(select(fd + 1, &read, &write, nullptr, &none));
      e.Say("%d %d", FD_ISSET(fd, &read) != 0, FD_ISSET(fd, &write) != 0);
      return;
    }
    timespec none{};
    DO(step.b == 0 ? poll(fds, 2, 0) : ppoll(fds, 2, &none, nullptr));
    e.Say("%s, %s", EventNames(static_cast<unsigned>(fds[0].revents)).c_str(),
          EventNames(static_cast<unsigned>(fds[1].revents)).c_str());
  }

  void Wait(int ep, int timeout) {
    std::vector<epoll_event> events(16);
    int n = static_cast<int>(DO(epoll_wait(ep, events.data(), 16, timeout)));
    events.resize(static_cast<size_t>(std::max(n, 0)));
    std::sort(events.begin(), events.end(), [](const epoll_event& a, const epoll_event& b) {
      return std::pair(a.data.u64, +a.events) < std::pair(b.data.u64, +b.events);
    });
    for (const epoll_event& each : events)
      e.Say("  %llu %s", static_cast<unsigned long long>(each.data.u64), EventNames(each.events).c_str());
  }

  // The acknowledgement of a FIN, which may be delayed, is an edge for epoll.
  void AwaitFinAcknowledged(int fd) {
    for (int i = 0; i < 2000; ++i) {
      tcp_info info{};
      socklen_t length = sizeof info;
      if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return;
      if (info.tcpi_state != TCP_FIN_WAIT1 && info.tcpi_state != TCP_CLOSING && info.tcpi_state != TCP_LAST_ACK) return;
      usleep(500);
    }
  }

  void WaitInVain(int fd, const ProgramStep& step) {
    char b;
    if (step.act == Act::kTimeout) {
      timeval limit{0, 5'000}, none{};
      setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
      DO(read(fd, &b, 1));
      setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none);
      return;
    }
    struct sigaction act {
    }, before{};
    act.sa_handler = [](int) {};
    sigaction(SIGALRM, &act, &before);
    itimerval every{{0, 8'000}, {0, 8'000}}, off{};
    setitimer(ITIMER_REAL, &every, nullptr);
    DO(recv(fd, &b, 1, 0));
    setitimer(ITIMER_REAL, &off, nullptr);
    sigaction(SIGALRM, &before, nullptr);
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
