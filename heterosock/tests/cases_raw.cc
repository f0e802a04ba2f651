// Calls by syscall(2), and by nothing of libc's at all, between those that libc makes.
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "heterosock/lib/machine.h"
#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr int kSeconds = 5;
// In memory that cannot be written, as a program's constants are.
constexpr timespec kTick = {0, 1'000'000};
constexpr int kRounds = 100;

// A byte for each wait of the other end, once that had time to fall asleep.
void Wake(End& e, int times) {
  for (int i = 0; i < times; ++i) {
    e.Meet();
    Sleep(20);
    e.SendAll(e.sock, "x");
  }
  e.Meet();
}

// The kernel leaves in a timeout what was not waited, libc does not.
void SayLeft(End& e, const timespec& timeout) {
  e.Say("less is left %d", timeout.tv_sec < kSeconds && timeout.tv_sec >= 0);
}

CASE{"raw: ppoll by syscall(2)",
     {.client = [](End& e) { Wake(e, 2); },
      .server =
          [](End& e) {
            sigset_t mask;
            sigemptyset(&mask);
            for (sigset_t* which : {static_cast<sigset_t*>(nullptr), &mask}) {
              pollfd one{e.sock, POLLIN, 0};
              timespec timeout{kSeconds, 0};
              e.Meet();
              DO(syscall(SYS_ppoll, &one, 1, &timeout, which, 8));
              e.Say("%s", EventNames(static_cast<unsigned>(one.revents)).c_str());
              SayLeft(e, timeout);
              e.Recv(e.sock, 10);
            }
            pollfd one{e.sock, POLLIN, 0};
            timespec timeout{0, 2'000'000};
            DO(syscall(SYS_ppoll, &one, 1, &timeout, &mask, 8));
            e.Say("nothing is left %d", timeout.tv_sec == 0 && timeout.tv_nsec == 0);
            DO(syscall(SYS_ppoll, &one, 1, &timeout, &mask, 16));
            DO(syscall(SYS_ppoll, &one, 1, 1, nullptr, 8));
            timeout = {0, 2'000'000'000};
            DO(syscall(SYS_ppoll, &one, 1, &timeout, nullptr, 8));
            DO(syscall(SYS_ppoll, &one, 1, &kTick, nullptr, 8));
            e.Meet();
          }}};

CASE{"raw: pselect6 and select by syscall(2)",
     {.client = [](End& e) { Wake(e, 3); },
      .server =
          [](End& e) {
            sigset_t mask;
            sigemptyset(&mask);
            const struct {
              const sigset_t* mask;
              size_t bytes;
            } with = {&mask, 8}, without = {nullptr, 0}, wrong = {&mask, 16};
            fd_set in;
            for (const auto* which : {&with, &without}) {
              FD_ZERO(&in);
              FD_SET(e.sock, &in);
              timespec timeout{kSeconds, 0};
              e.Meet();
              DO(syscall(SYS_pselect6, e.sock + 1, &in, nullptr, nullptr, &timeout, which));
              e.Say("set %d", FD_ISSET(e.sock, &in) != 0);
              SayLeft(e, timeout);
              e.Recv(e.sock, 10);
            }
            DO(syscall(SYS_pselect6, e.sock + 1, &in, nullptr, nullptr, nullptr, &wrong));
            DO(syscall(SYS_pselect6, e.sock + 1, &in, nullptr, nullptr, &kTick, nullptr));
            FD_ZERO(&in);
            FD_SET(e.sock, &in);
            e.Meet();
#ifdef SYS_select
            timeval timeout{kSeconds, 0};
            DO(syscall(SYS_select, e.sock + 1, &in, nullptr, nullptr, &timeout));
            e.Say("set %d, less is left %d", FD_ISSET(e.sock, &in) != 0, timeout.tv_sec < kSeconds);
#endif
            e.Recv(e.sock, 10);
            e.Meet();
          }}};

CASE{"raw: epoll_pwait2 by syscall(2)",
     {.client = [](End& e) { Wake(e, 2); },
      .server =
          [](End& e) {
            int ep = epoll_create1(0);
            epoll_event event{EPOLLIN, {.u64 = 9}};
            DO(epoll_ctl(ep, EPOLL_CTL_ADD, e.sock, &event));
            sigset_t mask;
            sigemptyset(&mask);
            for (sigset_t* which : {static_cast<sigset_t*>(nullptr), &mask}) {
              timespec timeout{kSeconds, 0};
              e.Meet();
              DO(syscall(SYS_epoll_pwait2, ep, &event, 1, &timeout, which, 8));
              e.Say("%s of %d", EventNames(event.events).c_str(), static_cast<int>(event.data.u64));
              e.Recv(e.sock, 10);
            }
            timespec none{};
            DO(syscall(SYS_epoll_pwait2, ep, &event, 1, &none, nullptr, 8));
            DO(syscall(SYS_epoll_pwait2, ep, &event, 1, &none, &mask, 16));
            e.Meet();
          }}};

CASE{"raw: batches, vectors and files by syscall(2)",
     {.client =
          [](End& e) {
            iovec parts[2] = {{const_cast<char*>("one "), 4}, {const_cast<char*>("two "), 4}};
            mmsghdr messages[2]{};
            for (int i = 0; i < 2; ++i) {
              messages[i].msg_hdr.msg_iov = &parts[i];
              messages[i].msg_hdr.msg_iovlen = 1;
            }
            DO(syscall(SYS_sendmmsg, e.sock, messages, 2, 0));
            e.Meet();
            DO(write(e.sock, "three ", 6));
            DO(syscall(SYS_pwritev2, e.sock, parts, 2, -1L, -1L, 0));
            DO(syscall(SYS_pwritev2, e.sock, parts, 2, 0, 0, 0));
            int file = static_cast<int>(syscall(SYS_memfd_create, "file", 0));
            DO(write(file, "of a file", 9));
            off_t at = 0;
            DO(syscall(SYS_sendfile, e.sock, file, &at, 9));
            e.Say("at %d", static_cast<int>(at));
            DO(write(e.sock, ".", 1));
            e.Meet();
            e.Meet();
            DO(write(e.sock, "for a pipe", 10));
          },
      .server =
          [](End& e) {
            char bytes[2][4];
            iovec parts[2] = {{bytes[0], 4}, {bytes[1], 4}};
            mmsghdr messages[2]{};
            for (int i = 0; i < 2; ++i) {
              messages[i].msg_hdr.msg_iov = &parts[i];
              messages[i].msg_hdr.msg_iovlen = 1;
            }
            e.Meet();
            DO(syscall(SYS_recvmmsg, e.sock, messages, 2, 0, nullptr));
            e.Say("%.4s%.4s", bytes[0], bytes[1]);
            e.Meet();
            e.AwaitBytes(e.sock, 24);
            char rest[64] = {};
            iovec both[2] = {{rest, 6}, {rest + 6, 8}};
            DO(syscall(SYS_preadv2, e.sock, both, 2, -1L, -1L, 0));
            DO(syscall(SYS_preadv2, e.sock, both, 2, 0, 0, 0));
            e.Say("%s", rest);
            e.Recv(e.sock, 100);
            int ends[2];
            DO(syscall(SYS_pipe2, ends, O_NONBLOCK));
            e.Meet();
            e.AwaitBytes(e.sock, 10);
            DO(syscall(SYS_splice, e.sock, nullptr, ends[1], nullptr, 10, 0));
            DO(read(ends[0], rest, 10));
            e.Say("%.10s", rest);
          }}};

CASE{"raw: options and the end by syscall(2)",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "abcde");
            e.Meet();
            e.Meet();
            int on = 1;
            DO(syscall(SYS_setsockopt, e.sock, IPPROTO_TCP, TCP_CORK, &on, sizeof on));
            DO(write(e.sock, "and ", 4));
            on = 0;
            DO(syscall(SYS_setsockopt, e.sock, IPPROTO_TCP, TCP_CORK, &on, sizeof on));
            DO(write(e.sock, "more", 4));
            DO(syscall(SYS_shutdown, e.sock, SHUT_WR));
            DO(send(e.sock, "x", 1, MSG_NOSIGNAL));
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.Meet();
            e.AwaitBytes(e.sock, 5);
            int unread = 0, error = 7;
            DO(syscall(SYS_ioctl, e.sock, FIONREAD, &unread));
            e.Say("unread %d", unread);
            e.Meet();
            e.Recv(e.sock, 5);
            e.Drain(e.sock, 10);
            int on = 1;
            DO(syscall(SYS_ioctl, e.sock, FIONBIO, &on));
            socklen_t length = sizeof error;
            DO(syscall(SYS_getsockopt, e.sock, SOL_SOCKET, SO_ERROR, &error, &length));
            e.Say("error %d of %d bytes", error, static_cast<int>(length));
            DO(write(e.sock, "last", 4));
          }}};

// What the program finds on the connection it sends back.
void ExecOnto(End& e, long number) {
  const int fd = fcntl(e.sock, F_DUPFD, 7);
  if (fd > 9) e.Say("sh takes one digit");
  const std::string number_of_fd = std::to_string(fd);
  const std::string command = "timeout 5 head -c 3 <&" + number_of_fd + " >&" + number_of_fd;
  DO(write(e.sock, "first ", 6));
  e.Meet();
  e.AwaitBytes(e.sock, 3);
  const pid_t child = fork();
  if (child == 0) {
    const char* argv[] = {"sh", "-c", command.c_str(), nullptr};
    if (number == SYS_execve)
      syscall(SYS_execve, "/bin/sh", argv, environ);
    else
      syscall(SYS_execveat, AT_FDCWD, "/bin/sh", argv, environ, 0);
    _exit(1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  e.Say("child ended %d", status);
  DO(write(e.sock, "last", 4));
  DO(close(fd));
  DO(close(e.sock));
}

const auto kPeerOfProgram = [](End& e) {
  e.SendAll(e.sock, "abc");
  e.Meet();
  e.Drain(e.sock, 10);
};

CASE{"raw: execve by syscall(2) onto the connection",
     {.client = kPeerOfProgram, .server = [](End& e) { ExecOnto(e, SYS_execve); }}};
CASE{"raw: execveat by syscall(2) onto the connection",
     {.client = kPeerOfProgram, .server = [](End& e) { ExecOnto(e, SYS_execveat); }}};

// As a runtime does that makes its system calls itself, and leaves the bytes to libc. The set is there first: it is too
// late for one that is made when the connection has moved.
void WaitInBareSet(End& e, int before) {
  for (int i = 0; i < before; ++i) open("/dev/null", O_RDONLY | O_CLOEXEC);
  const int ep = static_cast<int>(BareSyscall(SYS_epoll_create1, 0));
  e.Meet();
  const int fd = e.Accept();
  epoll_event event{EPOLLIN, {.u64 = 9}};
  e.Say("added %ld", Syscall(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, fd, reinterpret_cast<long>(&event)));
  for (int i = 0; i < kRounds; ++i) {
    const long n = Syscall(SYS_epoll_pwait, ep, reinterpret_cast<long>(&event), 1, 3000, 0, 8);
    if (n != 1) return e.Say("round %d: %ld", i, n);
    e.SendAll(fd, e.RecvAll(fd, 4));
  }
  e.Drain(fd, 10);
}

void TalkToBareSet(End& e) {
  e.Meet();
  const int fd = e.Connect();
  for (int i = 0; i < kRounds; ++i) {
    e.SendAll(fd, "ping");
    if (e.RecvAll(fd, 4) != "ping") return e.Say("round %d", i);
    Sleep(1);
  }
  DO(shutdown(fd, SHUT_WR));
  e.Drain(fd, 10);
}

CASE{"raw: a set that libc did not make",
     {.client = TalkToBareSet, .server = [](End& e) { WaitInBareSet(e, 0); }, .bare = true}};
CASE{"raw: a set that libc did not make, behind many files",
     {.client = TalkToBareSet, .server = [](End& e) { WaitInBareSet(e, 300); }, .bare = true}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
