// What a program can ask about a socket and set on it.
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "heterosock/tests/case.h"

extern "C" int isfdtype(int fd, int type);

namespace heterok8s::heterosock::behaviour {
namespace {

int Option(int fd, int level, int name) {
  int value = -1;
  socklen_t length = sizeof value;
  return getsockopt(fd, level, name, &value, &length) == 0 ? value : -errno;
}

CASE{"options: FIONREAD counts what can be read",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "abcdef");
            e.Meet();
            e.SendAll(e.sock, std::string(20'000, 'x'));
            e.Meet();
            DO(close(e.sock));
            e.Meet();
          },
      .server =
          [](End& e) {
            int there = -1;
            e.AwaitBytes(e.sock, 6);
            DO(ioctl(e.sock, FIONREAD, &there));
            e.Say("%d", there);
            e.Recv(e.sock, 2);
            DO(ioctl(e.sock, FIONREAD, &there));
            e.Say("%d", there);
            e.Meet();
            e.AwaitBytes(e.sock, 20'004);
            DO(ioctl(e.sock, SIOCINQ, &there));
            e.Say("%d", there);
            e.Recv(e.sock, 100'000, MSG_DONTWAIT);
            DO(ioctl(e.sock, FIONREAD, &there));
            e.Say("%d", there);
            e.Meet();
            e.Meet();
            e.Await(e.sock, POLLRDHUP);
            DO(ioctl(e.sock, FIONREAD, &there));
            e.Say("%d", there);
          }}};

CASE{"options: SIOCOUTQ goes to 0 once the peer has it",
     {.client =
          [](End& e) {
            int left = -1;
            DO(ioctl(e.sock, SIOCOUTQ, &left));
            e.Say("%d", left);
            e.SendAll(e.sock, Pattern(50'000));
            e.Meet();
            for (int i = 0; i < 4000; ++i) {
              if (ioctl(e.sock, SIOCOUTQ, &left) == 0 && left == 0) break;
              usleep(500);
            }
            e.Say("%d", left);
            DO(ioctl(e.sock, SIOCOUTQNSD, &left));
            e.Say("%d", left);
          },
      .server =
          [](End& e) {
            e.RecvAll(e.sock, 50'000);
            e.Meet();
            e.Drain(e.sock, 10);
          }}};

CASE{"options: TCP_INFO says established, then how it ends",
     {.client =
          [](End& e) {
            auto state = [&e] {
              tcp_info info{};
              socklen_t length = sizeof info;
              DO(getsockopt(e.sock, IPPROTO_TCP, TCP_INFO, &info, &length));
              e.Say("state %u", info.tcpi_state);
            };
            state();
            e.Meet();
            e.Await(e.sock, POLLRDHUP);
            state();
            e.Meet();
          },
      .server =
          [](End& e) {
            e.Meet();
            DO(shutdown(e.sock, SHUT_WR));
            e.Meet();
          }}};

CASE{"options: TCP_INFO counts the bytes",
     {.client =
          [](End& e) {
            auto counts = [&e] {
              // tcpi_bytes_acked and tcpi_bytes_received are in linux/tcp.h alone, which excludes netinet/tcp.h.
              uint64_t info[32] = {};
              socklen_t length = sizeof info;
              getsockopt(e.sock, IPPROTO_TCP, TCP_INFO, info, &length);
              return std::pair<long, long>(static_cast<long>(info[15]), static_cast<long>(info[16]));
            };
            auto [acked, received] = counts();
            e.SendAll(e.sock, Pattern(50'000));
            e.RecvAll(e.sock, 30'000);
            e.Meet();
            for (int i = 0; i < 2000 && counts().first - acked < 50'000; ++i) usleep(500);
            e.Say("sent %ld received %ld", counts().first - acked, counts().second - received);
          },
      .server =
          [](End& e) {
            e.RecvAll(e.sock, 50'000);
            e.SendAll(e.sock, Pattern(30'000));
            e.Meet();
            e.Drain(e.sock, 10);
          }}};

CASE{"options: what a connected socket says of itself",
     {.client =
          [](End& e) {
            for (int name : {SO_TYPE, SO_DOMAIN, SO_PROTOCOL, SO_ACCEPTCONN, SO_ERROR, SO_KEEPALIVE, SO_REUSEADDR,
                             SO_OOBINLINE, SO_RCVLOWAT, SO_BROADCAST})
              e.Say("%d: %d", name, Option(e.sock, SOL_SOCKET, name));
            for (int name : {TCP_NODELAY, TCP_CORK, TCP_QUICKACK, TCP_KEEPIDLE, TCP_USER_TIMEOUT})
              e.Say("tcp %d: %d", name, Option(e.sock, IPPROTO_TCP, name));
            e.Say("buffers: %d %d", Option(e.sock, SOL_SOCKET, SO_SNDBUF) > 4096,
                  Option(e.sock, SOL_SOCKET, SO_RCVBUF) > 4096);
            int value;
            socklen_t length = 1;
            DO(getsockopt(e.sock, SOL_SOCKET, SO_TYPE, &value, &length));
            DO(getsockopt(e.sock, SOL_SOCKET, 9999, &value, &length));
            DO(setsockopt(e.sock, IPPROTO_TCP, TCP_NODELAY, &value, 1));
            DO(getsockopt(e.sock, 12345, 1, &value, &length));
          },
      .server = [](End& e) { e.Drain(e.sock, 10); }}};

CASE{"options: names of both ends",
     {.client =
          [](End& e) {
            sockaddr_storage mine{}, theirs{};
            socklen_t length = sizeof mine;
            DO(getsockname(e.sock, reinterpret_cast<sockaddr*>(&mine), &length));
            e.Say("family %d length %u", mine.ss_family, length);
            e.Tell(ntohs(reinterpret_cast<sockaddr_in*>(&mine)->sin_port));
            length = 4;
            DO(getpeername(e.sock, reinterpret_cast<sockaddr*>(&theirs), &length));
            e.Say("length %u", length);
            length = sizeof theirs;
            DO(getpeername(e.sock, reinterpret_cast<sockaddr*>(&theirs), &length));
            e.Say("the server's port: %d", ntohs(reinterpret_cast<sockaddr_in*>(&theirs)->sin_port) == e.PeerPort());
            e.Meet();
          },
      .server =
          [](End& e) {
            e.Meet();
            sockaddr_storage theirs{};
            socklen_t length = sizeof theirs;
            DO(getpeername(e.sock, reinterpret_cast<sockaddr*>(&theirs), &length));
            e.Say("the client's port: %d", ntohs(reinterpret_cast<sockaddr_in*>(&theirs)->sin_port) == e.Told());
          }}};

CASE{"options: non-blocking by F_SETFL, FIONBIO and per call",
     {.client =
          [](End& e) {
            e.Say("%#x", static_cast<unsigned>(fcntl(e.sock, F_GETFL)));
            DO(fcntl(e.sock, F_SETFL, fcntl(e.sock, F_GETFL) | O_NONBLOCK));
            e.Say("%#x", static_cast<unsigned>(fcntl(e.sock, F_GETFL)));
            e.Recv(e.sock, 1);
            e.Recv(e.sock, 1, MSG_WAITALL);
            int off = 0, on = 1;
            DO(ioctl(e.sock, FIONBIO, &off));
            e.Say("%#x", static_cast<unsigned>(fcntl(e.sock, F_GETFL)));
            DO(ioctl(e.sock, FIONBIO, &on));
            e.Recv(e.sock, 1);
            DO(fcntl(e.sock, F_SETFL, O_RDWR));
            e.Recv(e.sock, 1, MSG_DONTWAIT);
            e.Meet();
            e.Recv(e.sock, 3);
          },
      .server =
          [](End& e) {
            e.Meet();
            Sleep(10);
            DO(write(e.sock, "now", 3));
            e.Drain(e.sock, 10);
          }}};

CASE{"options: descriptor flags and kinds",
     {.client =
          [](End& e) {
            DO(fcntl(e.sock, F_GETFD));
            DO(fcntl(e.sock, F_SETFD, FD_CLOEXEC));
            DO(fcntl(e.sock, F_GETFD));
            DO(ioctl(e.sock, FIONCLEX));
            DO(fcntl(e.sock, F_GETFD));
            DO(isfdtype(e.sock, S_IFSOCK));
            struct stat about {};
            DO(fstat(e.sock, &about));
            e.Say("socket: %d", S_ISSOCK(about.st_mode));
            DO(fcntl(e.sock, F_GETOWN));
            DO(fcntl(e.sock, 9999));
            DO(ioctl(e.sock, 0x1234));
            DO(fsync(e.sock));
            DO(isatty(e.sock));
          },
      .server = [](End& e) { e.Drain(e.sock, 10); }}};

CASE{"options: small buffers carry much",
     {.client =
          [](End& e) {
            int size = 16'384;
            DO(setsockopt(e.sock, SOL_SOCKET, SO_SNDBUF, &size, sizeof size));
            e.SendAll(e.sock, Pattern(200'000));
            DO(close(e.sock));
          },
      .server =
          [](End& e) {
            int size = 16'384;
            DO(setsockopt(e.sock, SOL_SOCKET, SO_RCVBUF, &size, sizeof size));
            e.Drain(e.sock, 1000);
          }}};

CASE{"options: a value that is shorter than a number, at the end of what is mapped",
     {.client =
          [](End& e) {
            const long page = sysconf(_SC_PAGESIZE);
            char* const pages =
                static_cast<char*>(mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
            if (pages == MAP_FAILED) return e.Say("no memory");
            DO(mprotect(pages + page, page, PROT_NONE));
            char name[16] = {};
            socklen_t length = sizeof name;
            DO(getsockopt(e.sock, IPPROTO_TCP, TCP_CONGESTION, name, &length));
            const size_t letters = strnlen(name, sizeof name);
            char* const value = pages + page - letters;
            memcpy(value, name, letters);
            DO(setsockopt(e.sock, IPPROTO_TCP, TCP_CONGESTION, value, static_cast<socklen_t>(letters)));
            for (int option : {TCP_CORK, TCP_NODELAY})
              for (int size : {2, -4}) DO(setsockopt(e.sock, IPPROTO_TCP, option, pages, static_cast<socklen_t>(size)));
            DO(munmap(pages, 2 * page));
            e.Meet();
          },
      .server = [](End& e) { e.Meet(); }}};

CASE{"options: TCP_NODELAY, TCP_CORK, keepalive and user timeout hold what was set",
     {.client =
          [](End& e) {
            int one = 1, many = 33;
            DO(setsockopt(e.sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
            DO(setsockopt(e.sock, IPPROTO_TCP, TCP_CORK, &one, sizeof one));
            DO(setsockopt(e.sock, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one));
            DO(setsockopt(e.sock, IPPROTO_TCP, TCP_KEEPIDLE, &many, sizeof many));
            DO(setsockopt(e.sock, IPPROTO_TCP, TCP_USER_TIMEOUT, &many, sizeof many));
            e.Say("%d %d %d %d %d", Option(e.sock, IPPROTO_TCP, TCP_NODELAY), Option(e.sock, IPPROTO_TCP, TCP_CORK),
                  Option(e.sock, SOL_SOCKET, SO_KEEPALIVE), Option(e.sock, IPPROTO_TCP, TCP_KEEPIDLE),
                  Option(e.sock, IPPROTO_TCP, TCP_USER_TIMEOUT));
            DO(write(e.sock, "corked ", 7));
            DO(write(e.sock, "bytes", 5));
            int off = 0;
            DO(setsockopt(e.sock, IPPROTO_TCP, TCP_CORK, &off, sizeof off));
            e.Meet();
          },
      .server =
          [](End& e) {
            e.AwaitBytes(e.sock, 12);
            e.Recv(e.sock, 100);
            e.Meet();
          }}};

CASE{"options: keepalive is what the program set, here and in the program that has the socket next",
     {.client =
          [](End& e) {
            const auto say = [&e] {
              e.Say("%d %d", Option(e.sock, SOL_SOCKET, SO_KEEPALIVE), Option(e.sock, IPPROTO_TCP, TCP_KEEPIDLE));
            };
            say();
            int idle = 77, one = 1, none = 0;
            DO(setsockopt(e.sock, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle));
            say();
            DO(setsockopt(e.sock, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one));
            say();
            DO(setsockopt(e.sock, SOL_SOCKET, SO_KEEPALIVE, &none, sizeof none));
            say();
            DO(write(e.sock, "x", 1));
            e.Meet();
            say();
          },
      .server =
          [](End& e) {
            e.Recv(e.sock, 1);
            e.Meet();
            Again(e, "options: say keepalive", e.sock, true);
          }}};

STEP("options: say keepalive") {
  e.Say("%d %d", Option(fd, SOL_SOCKET, SO_KEEPALIVE), Option(fd, IPPROTO_TCP, TCP_KEEPIDLE));
});

CASE{"options: SO_RCVLOWAT holds back readability and recv",
     {.client =
          [](End& e) {
            e.Meet();
            DO(write(e.sock, "abc", 3));
            e.Meet();
            e.Meet();
            DO(write(e.sock, "defgh", 5));
            e.Meet();
            e.Meet();
            DO(write(e.sock, "tail", 4));
            DO(close(e.sock));
          },
      .server =
          [](End& e) {
            int low = 6;
            DO(setsockopt(e.sock, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof low));
            e.Say("%d", Option(e.sock, SOL_SOCKET, SO_RCVLOWAT));
            e.Meet();
            e.Meet();
            e.AwaitBytes(e.sock, 3);
            pollfd one{e.sock, POLLIN, 0};
            DO(poll(&one, 1, 20));
            e.Meet();
            DO(poll(&one, 1, 5000));
            e.Meet();
            e.AwaitBytes(e.sock, 8);
            e.Recv(e.sock, 100);
            e.Meet();
            e.Await(e.sock, POLLRDHUP);
            DO(poll(&one, 1, 0));
            e.Recv(e.sock, 100);
            e.Recv(e.sock, 100);
          }}};

volatile sig_atomic_t ios = 0;

CASE{"options: SIGIO tells of arrival",
     {.client =
          [](End& e) {
            e.Meet();
            DO(write(e.sock, "abc", 3));
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            struct sigaction act {};
            act.sa_handler = [](int) { ios = 1; };
            act.sa_flags = SA_RESTART;
            sigaction(SIGIO, &act, nullptr);
            DO(fcntl(e.sock, F_SETOWN, getpid()));
            DO(fcntl(e.sock, F_SETFL, O_RDWR | O_ASYNC));
            e.Meet();
            for (int i = 0; i < 4000 && !ios; ++i) usleep(500);
            e.Say("signal: %d", static_cast<int>(ios));
            e.Recv(e.sock, 10);
          },
      .stays = true}};

CASE{"options: sockets of other families are as ever",
     {.client =
          [](End& e) {
            int pair[2];
            DO(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
            DO(write(pair[0], "abc", 3));
            e.Recv(pair[1], 10);
            DO(shutdown(pair[0], SHUT_WR));
            e.Recv(pair[1], 10);
            DO(socketpair(AF_INET, SOCK_STREAM, 0, pair));
            int udp = socket(e.family, SOCK_DGRAM, 0);
            socklen_t length;
            sockaddr_storage to = e.Address(0, &length);
            DO(bind(udp, reinterpret_cast<sockaddr*>(&to), length));
            DO(getsockname(udp, reinterpret_cast<sockaddr*>(&to), &length));
            DO(sendto(udp, "datagram", 8, 0, reinterpret_cast<sockaddr*>(&to), length));
            e.Await(udp, POLLIN);
            e.Recv(udp, 3, MSG_PEEK | MSG_TRUNC);
            e.Recv(udp, 3);
            e.Recv(udp, 3, MSG_DONTWAIT);
            DO(close(udp));
          },
      .server = [](End& e) { e.Drain(e.sock, 10); }}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
