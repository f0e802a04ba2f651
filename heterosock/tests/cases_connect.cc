// Connecting and accepting, and io through syscall(2).
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {
namespace {

long ConnectTo(End& e, int fd, int port) {
  socklen_t length;
  sockaddr_storage address = e.Address(port, &length);
  errno = 0;
  int result = connect(fd, reinterpret_cast<sockaddr*>(&address), length);
  return e.Did("connect", result, errno);
}

CASE{"connect: without waiting",
     {.client =
          [](End& e) {
            e.Meet();
            int fd = socket(e.family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
            ConnectTo(e, fd, e.PeerPort());
            e.Await(fd, POLLOUT);
            int error = -1;
            socklen_t length = sizeof error;
            DO(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length));
            e.Say("%d", error);
            ConnectTo(e, fd, e.PeerPort());
            ConnectTo(e, fd, e.PeerPort());
            e.SendAll(fd, "hello");
            e.Recv(fd, 10);
            e.Meet();
          },
      .server =
          [](End& e) {
            e.Meet();
            int fd = e.Accept();
            e.Recv(fd, 5, MSG_WAITALL);
            e.Meet();
          },
      .bare = true}};

CASE{"connect: refused, also without waiting",
     {.client =
          [](End& e) {
            // A port that was just free: bound by a socket that does not listen.
            socklen_t length;
            sockaddr_storage address = e.Address(0, &length);
            int holder = socket(e.family, SOCK_STREAM, 0);
            DO(bind(holder, reinterpret_cast<sockaddr*>(&address), length));
            DO(getsockname(holder, reinterpret_cast<sockaddr*>(&address), &length));
            int port = ntohs(reinterpret_cast<sockaddr_in*>(&address)->sin_port);
            int fd = socket(e.family, SOCK_STREAM, 0);
            ConnectTo(e, fd, port);
            DO(send(fd, "x", 1, MSG_NOSIGNAL));
            e.Recv(fd, 1);
            int other = socket(e.family, SOCK_STREAM | SOCK_NONBLOCK, 0);
            ConnectTo(e, other, port);
            e.Await(other, POLLOUT);
            pollfd one{other, POLLIN | POLLOUT, 0};
            DO(poll(&one, 1, 0));
            e.Say("%s", EventNames(static_cast<unsigned>(one.revents)).c_str());
            int error = -1;
            length = sizeof error;
            DO(getsockopt(other, SOL_SOCKET, SO_ERROR, &error, &length));
            e.Say("%s", strerrorname_np(error));
          },
      .server = [](End&) {},
      .bare = true}};

CASE{"connect: what an unconnected socket says",
     {.client =
          [](End& e) {
            int fd = socket(e.family, SOCK_STREAM, 0);
            char b;
            DO(read(fd, &b, 1));
            DO(send(fd, "x", 1, MSG_NOSIGNAL));
            sockaddr_storage address{};  // AF_UNSPEC: connect() to it ends what listen() began
            socklen_t length = sizeof address;
            DO(getpeername(fd, reinterpret_cast<sockaddr*>(&address), &length));
            DO(accept(fd, nullptr, nullptr));
            DO(listen(fd, 1));
            DO(connect(fd, reinterpret_cast<sockaddr*>(&address), 3));
            DO(read(fd, &b, 1));
            DO(socket(e.family, 999, 0));
            DO(socket(999, SOCK_STREAM, 0));
            DO(socket(e.family, SOCK_STREAM, IPPROTO_UDP));
          },
      .server = [](End&) {},
      .bare = true}};

CASE{"connect: accept, its flags and addresses",
     {.client =
          [](End& e) {
            e.Meet();
            int fds[4];
            for (int& fd : fds) fd = e.Connect();
            e.Meet();
            for (int fd : fds) close(fd);
          },
      .server =
          [](End& e) {
            DO(fcntl(e.listener, F_SETFL, O_NONBLOCK));
            DO(accept(e.listener, nullptr, nullptr));
            e.Meet();
            e.Await(e.listener, POLLIN);
            sockaddr_storage from{};
            socklen_t length = sizeof from;
            int plain = accept(e.listener, reinterpret_cast<sockaddr*>(&from), &length);
            e.Say("family %d length %u, flags %#x %d", from.ss_family, length,
                  static_cast<unsigned>(fcntl(plain, F_GETFL)), fcntl(plain, F_GETFD));
            e.Await(e.listener, POLLIN);
            int flagged = accept4(e.listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
            e.Say("flags %#x %d", static_cast<unsigned>(fcntl(flagged, F_GETFL)), fcntl(flagged, F_GETFD));
            e.Recv(flagged, 1);
            DO(accept4(e.listener, nullptr, nullptr, 0x77));
            length = 3;
            e.Await(e.listener, POLLIN);
            DO(accept(e.listener, reinterpret_cast<sockaddr*>(&from), &length) >= 0);
            e.Say("length %u", length);
            e.Meet();
          },
      .bare = true}};

CASE{"connect: bytes before accept, and a close before accept",
     {.client =
          [](End& e) {
            e.Meet();
            int a = e.Connect(), b = e.Connect();
            e.SendAll(a, Pattern(30'000));
            e.SendAll(b, "gone");
            close(b);
            e.Meet();
            e.Recv(a, 10);
          },
      .server =
          [](End& e) {
            e.Meet();
            e.Meet();
            int a = e.Accept(), b = e.Accept();
            e.Say("%d", e.RecvAll(a, 30'000) == Pattern(30'000));
            e.Drain(b, 10);
            DO(write(a, "hello", 5));
          },
      .bare = true}};

CASE{"connect: the server speaks first",
     {.client =
          [](End& e) {
            e.Recv(e.sock, 5, MSG_WAITALL);
            DO(write(e.sock, "client", 6));
          },
      .server =
          [](End& e) {
            DO(write(e.sock, "hello", 5));
            e.Recv(e.sock, 6, MSG_WAITALL);
          }}};

CASE{"connect: 100 short connections",
     {.client =
          [](End& e) {
            e.Meet();
            int right = 0;
            for (uint32_t i = 0; i < 100; ++i) {
              int fd = e.Connect();
              e.SendAll(fd, Pattern(i * 20 + 1, i));
              right += e.RecvAll(fd, i * 20 + 1) == Pattern(i * 20 + 1, i);
              close(fd);
            }
            e.Say("%d", right);
          },
      .server =
          [](End& e) {
            e.Meet();
            for (uint32_t i = 0; i < 100; ++i) {
              int fd = e.Accept();
              e.SendAll(fd, e.RecvAll(fd, i * 20 + 1));
              close(fd);
            }
          },
      .bare = true}};

CASE{"connect: both ends in one process, one thread",
     {.client =
          [](End& e) {
            int listener = e.Listen();
            int a = e.Connect(), b = e.Accept(listener);
            for (uint32_t i = 0; i < 200; ++i) {
              e.SendAll(a, Pattern(700, i));
              if (e.RecvAll(b, 700) != Pattern(700, i)) e.Say("wrong at %u", i);
              e.SendAll(b, Pattern(300, i));
              if (e.RecvAll(a, 300) != Pattern(300, i)) e.Say("wrong at %u", i);
            }
            int ep = epoll_create1(0);
            epoll_event event{EPOLLIN, {.u64 = 3}};
            DO(epoll_ctl(ep, EPOLL_CTL_ADD, b, &event));
            e.SendAll(a, "x");
            DO(epoll_wait(ep, &event, 1, 5000));
            DO(close(a) == 0);
            e.Drain(b, 10);
            e.NoteMoved(b);
            DO(close(b) == 0);
          },
      .server = [](End&) {},
      .bare = true}};

CASE{"connect: to an IPv4 listener by its mapped IPv6 address",
     {.client =
          [](End& e) {
            int listener = socket(AF_INET, SOCK_STREAM, 0);
            sockaddr_in v4{};
            v4.sin_family = AF_INET;
            v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
            socklen_t length = sizeof v4;
            DO(bind(listener, reinterpret_cast<sockaddr*>(&v4), length));
            DO(listen(listener, 1));
            DO(getsockname(listener, reinterpret_cast<sockaddr*>(&v4), &length));
            sockaddr_in6 mapped{};
            mapped.sin6_family = AF_INET6;
            mapped.sin6_port = v4.sin_port;
            inet_pton(AF_INET6, "::ffff:127.0.0.1", &mapped.sin6_addr);
            int fd = socket(AF_INET6, SOCK_STREAM, 0);
            DO(connect(fd, reinterpret_cast<sockaddr*>(&mapped), sizeof mapped));
            int conn = e.Accept(listener);
            for (uint32_t i = 0; i < 30; ++i) {
              e.SendAll(fd, Pattern(1000, i));
              if (e.RecvAll(conn, 1000) != Pattern(1000, i)) e.Say("wrong at %u", i);
              e.SendAll(conn, "k");
              e.RecvAll(fd, 1);
            }
            DO(shutdown(conn, SHUT_WR));
            e.Recv(fd, 10);
          },
      .server = [](End&) {},
      .bare = true}};

CASE{"connect: dissolved by AF_UNSPEC and made anew",
     {.client =
          [](End& e) {
            int one = 1;
            setsockopt(e.sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            e.SendAll(e.sock, "first");
            e.Meet();
            sockaddr nobody{};
            nobody.sa_family = AF_UNSPEC;
            DO(connect(e.sock, &nobody, sizeof nobody));
            DO(send(e.sock, "x", 1, MSG_NOSIGNAL));
            e.Recv(e.sock, 1);
            e.Meet();
            ConnectTo(e, e.sock, e.PeerPort());
            e.SendAll(e.sock, "second");
            e.Recv(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.Recv(e.sock, 5, MSG_WAITALL);
            int listener = e.Listen();
            e.Meet();
            e.Await(e.sock, POLLHUP);
            e.Recv(e.sock, 10);
            e.Meet();
            int fd = e.Accept(listener);
            e.Recv(fd, 6, MSG_WAITALL);
          },
      .stays = true}};

CASE{"connect: TCP_FASTOPEN's flag",
     {.client =
          [](End& e) {
            e.Meet();
            socklen_t length;
            sockaddr_storage address = e.Address(e.PeerPort(), &length);
            int fd = socket(e.family, SOCK_STREAM, 0);
            DO(sendto(fd, "early", 5, MSG_FASTOPEN, reinterpret_cast<sockaddr*>(&address), length));
            e.Recv(fd, 10);
          },
      .server =
          [](End& e) {
            e.Meet();
            int fd = e.Accept();
            e.Recv(fd, 5, MSG_WAITALL);
            DO(write(fd, "late", 4));
          },
      .bare = true}};

CASE{"raw: reads and writes by syscall(2) between those of libc",
     {.client =
          [](End& e) {
            DO(write(e.sock, "one ", 4));
            DO(syscall(SYS_write, e.sock, "two ", 4));
            DO(syscall(SYS_sendto, e.sock, "three ", 6, MSG_NOSIGNAL, nullptr, 0));
            iovec part{const_cast<char*>("four "), 5};
            DO(syscall(SYS_writev, e.sock, &part, 1));
            msghdr message{};
            message.msg_iov = &part;
            message.msg_iovlen = 1;
            DO(syscall(SYS_sendmsg, e.sock, &message, 0));
            DO(write(e.sock, "six", 3));
            e.Meet();
            e.Meet();
          },
      .server =
          [](End& e) {
            e.Meet();
            e.AwaitBytes(e.sock, 27);
            char b[100] = {};
            DO(syscall(SYS_read, e.sock, b, 4));
            DO(syscall(SYS_recvfrom, e.sock, b + 4, 4, MSG_PEEK, nullptr, nullptr));
            DO(read(e.sock, b + 4, 4));
            pollfd one{e.sock, POLLIN, 0};
            DO(syscall(SYS_poll, &one, 1, 0));
            iovec part{b + 8, 6};
            DO(syscall(SYS_readv, e.sock, &part, 1));
            e.Say("%s", b);
            e.Recv(e.sock, 100);
            DO(syscall(SYS_recvfrom, e.sock, b, 4, MSG_DONTWAIT, nullptr, nullptr));
            e.Meet();
            DO(syscall(SYS_recvfrom, e.sock, b, 4, 0, nullptr, nullptr));
          }}};

CASE{"raw: close, dup, fcntl and epoll by syscall(2)",
     {.client =
          [](End& e) {
            e.Meet();
            e.SendAll(e.sock, "abc");
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            int ep = static_cast<int>(syscall(SYS_epoll_create1, 0)), copy = static_cast<int>(syscall(SYS_dup, e.sock));
            epoll_event event{EPOLLIN, {.u64 = 9}};
            DO(syscall(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, copy, &event));
            e.Meet();
            DO(syscall(SYS_epoll_wait, ep, &event, 1, 5000));
            DO(syscall(SYS_close, e.sock));
            e.Recv(copy, 10);
            DO(syscall(SYS_fcntl, copy, F_SETFL, O_NONBLOCK));
            e.Recv(copy, 10);
            DO(syscall(SYS_shutdown, copy, SHUT_WR));
            DO(syscall(SYS_close, copy));
            DO(fcntl(copy, F_GETFD));
          }}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
