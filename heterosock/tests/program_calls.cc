#include "heterosock/tests/program_calls.h"

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>

namespace heterok8s::heterosock::behaviour {

void SendAs(End& e, int fd, const ProgramStep& step) {
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

void ReceiveAs(End& e, int fd, const ProgramStep& step, size_t there, bool some) {
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

void PollAs(End& e, int fd, int other, const ProgramStep& step) {
  pollfd fds[2] = {{fd, static_cast<short>(step.a), 0}, {other, POLLIN, 0}};
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

void WaitOn(End& e, int ep, int timeout) {
  std::vector<epoll_event> events(16);
  int n = static_cast<int>(DO(epoll_wait(ep, events.data(), 16, timeout)));
  events.resize(static_cast<size_t>(std::max(n, 0)));
  std::sort(events.begin(), events.end(), [](const epoll_event& a, const epoll_event& b) {
    return std::pair(a.data.u64, +a.events) < std::pair(b.data.u64, +b.events);
  });
  for (const epoll_event& each : events)
    e.Say("  %llu %s", static_cast<unsigned long long>(each.data.u64), EventNames(each.events).c_str());
}

void WaitInVain(End& e, int fd, const ProgramStep& step) {
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

}  // namespace heterok8s::heterosock::behaviour
