// dup and its family, close ranges, numbers used again, descriptors passed and wrapped in stdio.
#include <fcntl.h>
#include <poll.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "heterosock/tests/case.h"

extern "C" {
int close_range(unsigned first, unsigned last, int flags) noexcept;
void closefrom(int first) noexcept;
}

namespace heterok8s::heterosock::behaviour {
namespace {

const auto kEcho = [](End& e) {
  char buffer[5000];
  ssize_t n;
  while ((n = read(e.sock, buffer, sizeof buffer)) > 0) e.SendAll(e.sock, {buffer, static_cast<size_t>(n)});
  e.Say("end %zd", n);
  close(e.sock);
};

CASE{"dup: bytes through each duplicate are one stream",
     {.client = kEcho, .server = [](End& e) {
        int a = dup(e.sock), b = fcntl(e.sock, F_DUPFD, 100), c = fcntl(a, F_DUPFD_CLOEXEC, 100), d = dup2(b, 300),
            f = dup3(d, 301, O_CLOEXEC);
        e.Say("%d %d %d %d", b, c, d, f);
        for (int fd : {e.sock, a, b, c, d, f}) e.SendAll(fd, "0123456789");
        for (int fd : {f, d, c, b, a, e.sock}) e.Recv(fd, 7, MSG_WAITALL);
        e.Recv(c, 18, MSG_WAITALL);
        e.Say("flags %d %d %d", fcntl(c, F_GETFD), fcntl(d, F_GETFD), fcntl(f, F_GETFD));
        for (int fd : {e.sock, a, b, c, d}) DO(close(fd));
        e.SendAll(f, "last");
        e.Recv(f, 4, MSG_WAITALL);
        DO(close(f));
      }}};

CASE{"dup: what is refused", {.client = kEcho, .server = [](End& e) {
                                DO(dup(1000));
                                DO(dup2(1000, 5));
                                DO(dup2(e.sock, -1));
                                DO(dup3(e.sock, e.sock, 0));
                                DO(dup3(e.sock, 500, 0x1234));
                                DO(dup2(e.sock, e.sock) == e.sock);
                                DO(fcntl(e.sock, F_DUPFD, -1));
                                e.SendAll(e.sock, "lives");
                                e.Recv(e.sock, 5, MSG_WAITALL);
                                DO(close(e.sock));
                              }}};

CASE{"dup: non-blocking is for all, close-on-exec for one", {.client = kEcho, .server = [](End& e) {
                                                               int copy = dup(e.sock);
                                                               DO(fcntl(copy, F_SETFL, O_NONBLOCK));
                                                               e.Recv(e.sock, 10);
                                                               DO(fcntl(e.sock, F_SETFL, 0));
                                                               e.SendAll(e.sock, "x");
                                                               e.Recv(copy, 10);
                                                               DO(shutdown(copy, SHUT_WR));
                                                               e.Recv(e.sock, 10);
                                                             }}};

CASE{"dup: dup2 over a connection closes it",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "abc");
            e.Meet();
            e.Await(e.sock, POLLHUP | POLLRDHUP);
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.AwaitBytes(e.sock, 3);
            e.Recv(e.sock, 10);
            int ends[2];
            DO(pipe(ends));
            DO(dup2(ends[0], e.sock) == e.sock);
            e.Meet();
            DO(write(ends[1], "pipe", 4));
            char b[10];
            DO(read(e.sock, b, 10));
            DO(recv(e.sock, b, 10, 0));
            pollfd one{e.sock, POLLIN, 0};
            DO(poll(&one, 1, 0));
          }}};

CASE{"dup: the connection becomes standard input and output", {.client = kEcho, .server = [](End& e) {
                                                                 DO(dup2(e.sock, 0));
                                                                 DO(dup2(e.sock, 1));
                                                                 DO(close(e.sock));
                                                                 DO(std::printf("line one\nline two\n"));
                                                                 DO(std::fflush(stdout));
                                                                 char line[100];
                                                                 for (int i = 0; i < 2; ++i)
                                                                   e.Say("%s", std::fgets(line, sizeof line, stdin));
                                                                 DO(std::putchar('x'));
                                                                 DO(std::fclose(stdout));
                                                                 DO(std::getchar());
                                                                 DO(shutdown(0, SHUT_WR));
                                                                 DO(std::getchar());
                                                               }}};

CASE{"dup: a number that was a connection is a file, a pipe, and another connection",
     {.client =
          [](End& e) {
            e.Meet();
            for (int i = 0; i < 3; ++i) {
              int fd = e.Connect();
              e.SendAll(fd, Pattern(9000));
              e.RecvAll(fd, 9000);
              close(fd);
            }
          },
      .server =
          [](End& e) {
            e.Meet();
            char b[4] = {};
            for (int i = 0; i < 3; ++i) {
              int fd = e.Accept();
              e.SendAll(fd, e.RecvAll(fd, 9000));
              DO(close(fd) == 0);
              int file = open("/proc/self/exe", O_RDONLY);
              e.Say("the same number: %d", file == fd);
              DO(read(file, b, 4));
              e.Say("%.3s", b + 1);
              DO(lseek(file, 0, SEEK_SET));
              DO(close(file) == 0);
              int ends[2];
              DO(pipe(ends));
              DO(write(ends[1], "ab", 2));
              DO(read(ends[0], b, 4));
              DO(recv(ends[0], b, 4, 0));
              DO(close(ends[0]) | close(ends[1]));
            }
          },
      .bare = true}};

CASE{"close_range: closes what is in it",
     {.client = [](End& e) { e.Drain(e.sock, 10); },
      .server =
          [](End& e) {
            int high = fcntl(e.sock, F_DUPFD, 400), low = e.sock;
            DO(close_range(static_cast<unsigned>(low), 399, 0));
            DO(fcntl(low, F_GETFD));
            e.SendAll(high, "still open");
            DO(close_range(400, 500, 4));  // CLOSE_RANGE_CLOEXEC
            DO(fcntl(high, F_GETFD));
            e.SendAll(high, "still open");
            DO(close_range(400, 500, 0));
            DO(send(high, "x", 1, MSG_NOSIGNAL));
            DO(close_range(10, 5, 0));
          },
      .stays = true}};

// The last one is, too, on a kernel that has no such call.
CASE{"close_range: what is refused closes nothing",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "unread");
            kEcho(e);
          },
      .server =
          [](End& e) {
            const auto number = static_cast<unsigned>(e.sock);
            e.AwaitBytes(e.sock, 6);
            DO(close_range(number, number, 1 << 7));
            DO(close_range(number, number - 1, 0));
            DO(write(e.sock, "a", 1));
            e.Recv(e.sock, 7, MSG_WAITALL);
            if (DO(close_range(number, number, 0)) == 0) return;
            DO(write(e.sock, "b", 1));
            e.Recv(e.sock, 10);
          }}};

CASE{"closefrom: closes all from there",
     {.client = [](End& e) { e.Drain(e.sock, 10); },
      .server =
          [](End& e) {
            e.SendAll(e.sock, "bye");
            closefrom(3);
            DO(send(e.sock, "x", 1, MSG_NOSIGNAL));
            int again = open("/dev/null", O_RDONLY);
            e.Say("first number: %d", again == 3);
            Sleep(20);
          }}};

CASE{"close: behind the library's back, by a child's file actions", {.client = kEcho, .server = [](End& e) {
                                                                       // vfork's child shares nothing of the table; it
                                                                       // closes its own copy.
                                                                       int fd = e.sock;
                                                                       pid_t child = vfork();
                                                                       if (child == 0) {
                                                                         close(fd);
                                                                         _exit(0);
                                                                       }
                                                                       waitpid(child, nullptr, 0);
                                                                       e.SendAll(e.sock, "lives");
                                                                       e.Recv(e.sock, 5, MSG_WAITALL);
                                                                       DO(close(e.sock));
                                                                     }}};

// Sends `fd` over `through`; receives one.
void Pass(int through, int fd) {
  char control[CMSG_SPACE(sizeof fd)] = {}, byte = 'f';
  iovec one{&byte, 1};
  msghdr message{nullptr, 0, &one, 1, control, sizeof control, 0};
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  *header = {CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS};
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  sendmsg(through, &message, 0);
}

int Take(int through) {
  char control[CMSG_SPACE(sizeof(int))] = {}, byte = 0;
  iovec one{&byte, 1};
  msghdr message{nullptr, 0, &one, 1, control, sizeof control, 0};
  if (recvmsg(through, &message, 0) != 1 || !CMSG_FIRSTHDR(&message)) return -1;
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
  return fd;
}

CASE{"pass: SCM_RIGHTS to oneself",
     {.client = kEcho,
      .server =
          [](End& e) {
            int pair[2];
            DO(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
            e.SendAll(e.sock, "before ");
            Pass(pair[0], e.sock);
            DO(close(e.sock) == 0);
            int fd = Take(pair[1]);
            e.SendAll(fd, "after");
            e.Recv(fd, 12, MSG_WAITALL);
            DO(close(fd) == 0);
          },
      .stays = true}};

CASE{"pass: SCM_RIGHTS to another process in the middle of a stream",
     {.client =
          [](End& e) {
            SendOnBothSides(e, "for the first, for the second.");
            DO(shutdown(e.sock, SHUT_WR));
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            int pair[2];
            DO(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
            pid_t child = fork();
            if (child == 0) {
              // The copy of the fork goes, so that the passed one is all the child has.
              close(e.sock);
              int fd = Take(pair[1]);
              e.Recv(fd, 15, MSG_WAITALL);
              e.Meet();
              e.Drain(fd, 9999);
              e.SendAll(fd, "by the second");
              _exit(0);
            }
            e.AwaitBytes(e.sock, 30);
            e.Recv(e.sock, 15);
            DO(write(e.sock, "by the first, ", 14));
            Pass(pair[0], e.sock);
            close(e.sock);
            waitpid(child, nullptr, 0);
          },
      .stays = true}};

CASE{"pass: SCM_RIGHTS to a program without the library",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "abc");
            e.Meet();
            e.SendAll(e.sock, Pattern(50'000));
            DO(shutdown(e.sock, SHUT_WR));
            e.Drain(e.sock, 1000);
          },
      .server =
          [](End& e) {
            int pair[2];
            DO(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
            pid_t child = fork();
            if (child == 0) {
              close(e.sock);
              Again(e, "takes and echoes", pair[1], true);
              _exit(1);
            }
            e.AwaitBytes(e.sock, 3);
            e.Recv(e.sock, 1);
            Pass(pair[0], e.sock);
            DO(close(e.sock) == 0);
            e.Meet();
            waitpid(child, nullptr, 0);
          },
      .stays = true}};
STEP("takes and echoes") {
  int taken = Take(fd);
  char buffer[3000];
  ssize_t n;
  size_t total = 0;
  while ((n = read(taken, buffer, sizeof buffer)) > 0) {
    total += static_cast<size_t>(n);
    e.SendAll(taken, {buffer, static_cast<size_t>(n)});
  }
  e.Say("echoed %zu then %zd", total, n);
});

CASE{"stdio: lines both ways over fdopen",
     {.client = kEcho,
      .server =
          [](End& e) {
            FILE* in = fdopen(e.sock, "r");
            FILE* out = fdopen(dup(e.sock), "w");
            for (int i = 0; i < 50; ++i) {
              DO(std::fprintf(out, "line %d of some length\n", i));
              if (i % 7 == 0) DO(std::fflush(out));
            }
            DO(std::fclose(out));
            char line[200];
            DO(shutdown(fileno(in), SHUT_WR));
            int lines = 0;
            while (std::fgets(line, sizeof line, in)) ++lines;
            e.Say("%d lines, eof %d error %d", lines, std::feof(in) != 0, std::ferror(in) != 0);
            DO(std::fclose(in));
          },
      .stays = true}};

CASE{"stdio: fdopen after bytes have come, and calls in between",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "raw bytes, then a line\nand more\n");
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.AwaitBytes(e.sock, 32);
            e.Recv(e.sock, 11);
            FILE* both = fdopen(e.sock, "r+");
            char line[100];
            e.Say("%s", std::fgets(line, sizeof line, both));
            DO(write(e.sock, "direct, ", 8));
            DO(std::fputs("through stdio", both) >= 0);
            DO(std::fflush(both));
            DO(std::fclose(both));
            DO(fcntl(e.sock, F_GETFD));
          },
      .stays = true}};

CASE{"stdio: dprintf, freopen",
     {.client = [](End& e) { e.Drain(e.sock, 10); },
      .server =
          [](End& e) {
            DO(write(e.sock, "one ", 4));
            DO(dprintf(e.sock, "two %d ", 2));
            DO(write(e.sock, "three ", 6));
            FILE* stream = fdopen(e.sock, "w");
            DO(std::fputs("four", stream) >= 0);
            e.Say("freopen %d", freopen("/dev/null", "w", stream) == stream);
            DO(std::fputs("nobody reads this", stream) >= 0);
            DO(std::fclose(stream));
          },
      .stays = true}};

CASE{"stdio: freopen64",
     {.client = [](End& e) { e.Drain(e.sock, 10); },
      .server =
          [](End& e) {
            FILE* stream = fdopen(e.sock, "w");
            DO(std::fputs("one", stream) >= 0);
            e.Say("freopen64 %d", freopen64("/dev/null", "w", stream) == stream);
            DO(std::fputs("nobody reads this", stream) >= 0);
            e.Say("descriptor %d", fileno(stream) == e.sock);
            DO(std::fclose(stream));
            DO(fcntl(e.sock, F_GETFD));
          },
      .stays = true}};

CASE{"stdio: a connection cannot be opened by name",
     {.client = [](End& e) { e.Drain(e.sock, 10); },
      .server =
          [](End& e) {
            std::string name = "/proc/self/fd/" + std::to_string(e.sock);
            DO(open(name.c_str(), O_RDWR));
            struct stat about {};
            DO(stat(name.c_str(), &about));
            e.Say("socket %d", S_ISSOCK(about.st_mode));
          }}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
