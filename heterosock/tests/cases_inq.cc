// TCP_INQ: recvmsg() tells how much is left, and gRPC reads no further when it says 0.
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {
namespace {

struct Got {
  ssize_t bytes;
  int left;  // -1: it was not told
};

// `room`: of the control buffer.
Got Receive(End& e, size_t size, int flags = 0, size_t room = 64, bool say = true) {
  std::string bytes(size, '-');
  alignas(cmsghdr) char control[64] = {};
  iovec part = {bytes.data(), size};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = room == 0 ? nullptr : control;
  message.msg_controllen = room;
  Got got = {recvmsg(e.sock, &message, flags), -1};
  const auto* header = reinterpret_cast<const cmsghdr*>(control);
  if (got.bytes >= 0 && message.msg_controllen >= CMSG_LEN(sizeof got.left) && header->cmsg_level == IPPROTO_TCP &&
      header->cmsg_type == TCP_CM_INQ)
    memcpy(&got.left, CMSG_DATA(header), sizeof got.left);
  if (say)
    e.Say("%zd bytes, control %zu (length %zu), flags %x, left %d", got.bytes,
          static_cast<size_t>(message.msg_controllen), static_cast<size_t>(header->cmsg_len), message.msg_flags,
          got.left);
  return got;
}

void SetInq(End& e, int on) { DO(setsockopt(e.sock, IPPROTO_TCP, TCP_INQ, &on, sizeof on)); }

CASE{"inq: recvmsg tells what is left, and of the end",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "abcdefghijklmnopqrstuvwxyz");
            e.Meet();
            e.Meet();
            e.SendAll(e.sock, "12345");
            DO(shutdown(e.sock, SHUT_WR));
            e.Meet();
            e.Meet();
          },
      .server =
          [](End& e) {
            SetInq(e, 1);
            SetInq(e, 2);
            e.Meet();
            e.AwaitBytes(e.sock, 26);
            Receive(e, 4);
            Receive(e, 4, MSG_PEEK);
            Receive(e, 2, 0, 0);
            Receive(e, 2, 0, 8);
            Receive(e, 2, 0, 18);
            Receive(e, 2, 0, 20);
            SetInq(e, 0);
            Receive(e, 2);
            SetInq(e, 1);
            Receive(e, 20);
            Receive(e, 20, MSG_DONTWAIT);
            e.Meet();
            e.Meet();
            e.AwaitBytes(e.sock, 5);
            e.Await(e.sock, POLLRDHUP);
            Receive(e, 2);
            Receive(e, 3);
            Receive(e, 3);
            Receive(e, 3);
            e.Meet();
          }}};

constexpr size_t kStream = 3 << 20;

// Bytes go on arriving while the reader waits for an edge whenever it is told that nothing is left.
CASE{"inq: who reads until nothing is left and waits for an edge misses nothing",
     {.client =
          [](End& e) {
            e.Meet();
            e.Warm(e.sock);
            const std::string bytes = Pattern(kStream);
            for (size_t at = 0; at < kStream;) {
              const size_t piece = 1 + at * 7919 % 30'011;
              const std::string_view rest = std::string_view(bytes).substr(at, piece);
              e.SendAll(e.sock, rest);
              at += rest.size();
            }
            DO(close(e.sock));
          },
      .server =
          [](End& e) {
            SetInq(e, 1);
            e.Meet();
            e.Warm(e.sock);
            const int set = epoll_create1(EPOLL_CLOEXEC);
            epoll_event event = {EPOLLIN | EPOLLRDHUP | EPOLLET, {}};
            DO(epoll_ctl(set, EPOLL_CTL_ADD, e.sock, &event));
            size_t total = 0;
            for (bool open = true; open;) {
              if (epoll_wait(set, &event, 1, 5000) != 1) {
                e.Say("no edge after %zu bytes", total);
                break;
              }
              for (Got got = {0, 1}; got.left != 0;) {
                got = Receive(e, 20'000, MSG_DONTWAIT, 64, false);
                if (got.bytes < 0) break;
                if (got.bytes == 0) open = false;
                if (got.bytes == 0) break;
                total += static_cast<size_t>(got.bytes);
              }
            }
            e.Say("%zu", total);
          }}};

int Connected(End& e, int port) {
  const int fd = socket(e.family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  socklen_t length;
  const sockaddr_storage address = e.Address(port, &length);
  DO(connect(fd, reinterpret_cast<const sockaddr*>(&address), length));
  return fd;
}

// Before or after listen().
CASE{"inq: a listener's is its connections'",
     {.client =
          [](End& e) {
            for (int i = 0; i < 2; ++i) {
              e.Meet();
              e.sock = Connected(e, e.Told());
              e.Warm(e.sock);
              e.SendAll(e.sock, "hello");
              e.Meet();
            }
          },
      .server =
          [](End& e) {
            for (const bool before : {true, false}) {
              e.listener = socket(e.family, SOCK_STREAM | SOCK_CLOEXEC, 0);
              socklen_t length;
              sockaddr_storage address = e.Address(0, &length);
              DO(bind(e.listener, reinterpret_cast<const sockaddr*>(&address), length));
              e.sock = e.listener;
              if (before) SetInq(e, 1);
              DO(listen(e.listener, 1));
              if (!before) SetInq(e, 1);
              getsockname(e.listener, reinterpret_cast<sockaddr*>(&address), &length);
              e.Tell(
                  ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port));  // an IPv6 address has it there too
              e.Meet();
              e.sock = e.Accept(e.listener);
              e.Warm(e.sock);
              e.AwaitBytes(e.sock, 5);
              Receive(e, 2);
              e.Meet();
            }
          },
      .bare = true,
      .stays = true}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
