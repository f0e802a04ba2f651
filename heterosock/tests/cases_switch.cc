// A receiver between two queues: its sender has gone on to shared memory, perhaps back again, and bytes that were sent
// over TCP before are unread.
#include <dlfcn.h>
#include <linux/sockios.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <string_view>

#include "heterosock/tests/cases_epoll.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr int kKept = 5000;  // bytes that the reader leaves unread from the beginning
constexpr int kRounds = 3;   // at least
constexpr auto kLongest = std::chrono::seconds(1);
constexpr std::string_view kLast = "last words";

using Moved = int (*)(int fd);
Moved FindMoved() { return reinterpret_cast<Moved>(dlsym(RTLD_DEFAULT, "heterosock_moved")); }

// A byte goes back and forth until the writer sends to shared memory, when both ends have the library: then what is
// unread came over TCP, but for the last byte. All bytes are the same, because it cannot be said how many rounds it
// takes.
void SwitchWriter(End& e) {
  const Moved moved = FindMoved();
  const auto end = std::chrono::steady_clock::now() + kLongest;
  e.SendAll(e.sock, std::string(kKept, 'k'));
  for (int round = 1;; ++round) {
    e.SendAll(e.sock, "k");
    e.RecvAll(e.sock, 1);
    const bool may_move = moved && (moved(e.sock) & 1) == 0 && std::chrono::steady_clock::now() < end;
    e.Tell(may_move || round < kRounds);
    e.Meet();
    const bool over = e.Told() == 0 || !(may_move || round < kRounds);
    e.Meet();
    if (over) return;
  }
}

void SwitchReader(End& e) {
  for (int round = 1;; ++round) {
    e.RecvAll(e.sock, 1);
    e.SendAll(e.sock, "k");
    const bool goes_on = FindMoved() != nullptr || round < kRounds;
    e.Tell(goes_on);
    e.Meet();
    const bool over = e.Told() == 0 || !goes_on;
    e.Meet();
    if (over) return;
  }
}

// Says how much a look at `size` bytes sees, and what.
void Peek(End& e, size_t size) {
  std::string bytes(size, '\0');
  const long got = recv(e.sock, bytes.data(), size, MSG_PEEK | MSG_DONTWAIT);
  e.Say("%zu: %ld sum %llx", size, got,
        static_cast<unsigned long long>(Sum({bytes.data(), static_cast<size_t>(std::max(got, 0L))})));
  iovec parts[2] = {{bytes.data(), size / 3}, {bytes.data() + size / 3, size - size / 3}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  const long parted = recvmsg(e.sock, &message, MSG_PEEK | MSG_DONTWAIT);
  e.Say("in parts: %ld sum %llx", parted,
        static_cast<unsigned long long>(Sum({bytes.data(), static_cast<size_t>(std::max(parted, 0L))})));
}

void PeekAround(End& e) {
  for (size_t size : {10, kKept - 2, kKept - 1, kKept, kKept + 1, kKept + 1000, kKept + 3000, kKept + 9000})
    Peek(e, size);
}

CASE{"switch: a peek sees what is on both sides of it",
     {.client =
          [](End& e) {
            SwitchWriter(e);
            e.SendAll(e.sock, Pattern(3000));
            e.Meet();
            e.Meet();
          },
      .server =
          [](End& e) {
            SwitchReader(e);
            e.Meet();
            e.AwaitBytes(e.sock, kKept + 3000);
            PeekAround(e);
            e.Recv(e.sock, 4000);
            Peek(e, 1000);
            Peek(e, 4001);
            e.Recv(e.sock, 9000, MSG_DONTWAIT);
            e.Meet();
          }}};

CASE{"switch: a peek sees what is on both sides of it, from a sender that has ended",
     {.client =
          [](End& e) {
            SwitchWriter(e);
            e.SendAll(e.sock, Pattern(3000));
            DO(shutdown(e.sock, SHUT_WR));
            e.Meet();
            e.Meet();
          },
      .server =
          [](End& e) {
            SwitchReader(e);
            e.Meet();
            e.Await(e.sock, POLLRDHUP);
            e.AwaitBytes(e.sock, kKept + 3000);
            PeekAround(e);
            e.Recv(e.sock, 4000);
            Peek(e, 1000);
            Peek(e, 4001);
            e.Drain(e.sock, 700);
            e.Meet();
          }}};

CASE{"switch: an own half-close is an edge, with bytes unread on both sides of it",
     {.client =
          [](End& e) {
            SwitchWriter(e);
            e.SendAll(e.sock, Pattern(3000));
            e.Meet();
            e.Meet();
          },
      .server =
          [](End& e) {
            const int ep = epoll_create1(0);
            epoll::Add(e, ep, e.sock, EPOLLIN | EPOLLOUT | EPOLLET);
            SwitchReader(e);
            e.Meet();
            e.AwaitBytes(e.sock, kKept + 3000);
            epoll_event event;
            while (epoll_wait(ep, &event, 1, 0) > 0) {
            }
            DO(shutdown(e.sock, SHUT_WR));
            AwaitFinAcknowledged(e.sock);
            epoll::Wait(e, ep, 0);
            epoll::Wait(e, ep, 0);
            e.Meet();
          }}};

CASE{"switch: a peek for all of it waits for what comes behind the switch",
     {.client =
          [](End& e) {
            SwitchWriter(e);
            SendToSleeper(e, 20, "abc");
          },
      .server =
          [](End& e) {
            SwitchReader(e);
            e.Meet();
            e.Recv(e.sock, kKept + 2, MSG_PEEK | MSG_WAITALL);
            e.Recv(e.sock, kKept + 2, MSG_WAITALL);
          }}};

// Of bytes behind which more is to come (MSG_MORE) TCP keeps some back. The more may go by the ring, when the writer
// moves between them; TCP must not wait for it.
CASE{"switch: what was kept back in TCP is sent with what comes behind it",
     {.client =
          [](End& e) {
            constexpr int kOnTcp = 3, kMost = 60;
            const Moved moved = FindMoved();
            for (int i = 0; i < 6; ++i) {
              e.SendAll(e.sock, "h");
              e.RecvAll(e.sock, 1);
              Sleep(1);
            }
            for (int i = 0; i < kOnTcp || (moved && (moved(e.sock) & 1) == 0 && i < kMost); ++i) {
              send(e.sock, "h", 1, MSG_MORE);
              Sleep(1);
            }
            DO(send(e.sock, "b", 1, 0));
            int kept = -1;
            DO(ioctl(e.sock, SIOCOUTQNSD, &kept));
            e.Say("kept %d", kept);
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            for (int i = 0; i < 6; ++i) {
              e.RecvAll(e.sock, 1);
              e.SendAll(e.sock, "r");
            }
            while (e.RecvAll(e.sock, 1) == "h") {
            }
          },
      .halfway = true}};

// The reader's half-close brings the writer back to TCP with its next send: bytes, then more of them, then the end.
void WriteOverTcpAgain(End& e, int before) {
  SwitchWriter(e);
  e.SendAll(e.sock, Pattern(static_cast<size_t>(before)));
  e.Meet();
  e.Await(e.sock, POLLRDHUP);
  e.Meet();
  for (size_t size : {100, 1, 20'000}) {
    e.Meet();
    e.SendAll(e.sock, Pattern(size));
    e.Meet();
  }
  e.Meet();
  DO(shutdown(e.sock, SHUT_WR));
  e.Meet();
  e.Meet();
}

void ReadUntilHalfClose(End& e, int before) {
  SwitchReader(e);
  e.Meet();
  e.AwaitBytes(e.sock, kKept + before);
  DO(shutdown(e.sock, SHUT_WR));
  AwaitFinAcknowledged(e.sock);
  e.Meet();
}

// Each of them is one edge, wherever it lies; that the reader reads is none.
Body EdgesAfterWayBack(int before) {
  return {.client = [before](End& e) { WriteOverTcpAgain(e, before); },
          .server =
              [before](End& e) {
                ReadUntilHalfClose(e, before);
                int ep = epoll_create1(0);
                epoll::Add(e, ep, e.sock, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
                epoll::Wait(e, ep, 0);
                epoll::Wait(e, ep, 0);
                int there = kKept + before;
                for (int size : {100, 1, 20'000}) {
                  e.Meet();
                  e.Meet();
                  e.AwaitBytes(e.sock, there += size);
                  epoll::Wait(e, ep, 1000);
                  epoll::Wait(e, ep, 0);
                }
                e.Meet();
                e.Meet();
                e.Await(e.sock, POLLRDHUP);
                epoll::Wait(e, ep, 1000);
                epoll::Wait(e, ep, 0);
                while (e.Recv(e.sock, 3001, MSG_DONTWAIT) > 0) epoll::Wait(e, ep, 0);
                close(ep);
                e.Meet();
              }};
}

CASE{"switch: edges of a sender that took it back at once", EdgesAfterWayBack(0)};
CASE{"switch: edges of a sender that took it back, with bytes in the ring", EdgesAfterWayBack(3000)};

CASE{"switch: a peek after the sender took it back",
     {.client = [](End& e) { WriteOverTcpAgain(e, 3000); },
      .server =
          [](End& e) {
            ReadUntilHalfClose(e, 3000);
            int there = kKept + 3000;
            for (int size : {100, 1, 20'000}) {
              e.Meet();
              e.Meet();
              e.AwaitBytes(e.sock, there += size);
              PeekAround(e);
            }
            e.Meet();
            e.Meet();
            e.Drain(e.sock, 3001);
            e.Meet();
          }}};

CASE{"switch: one shot that was fired before stays so",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "k");
            e.Meet();
            e.Meet();
            SwitchWriter(e);
            e.SendAll(e.sock, std::string(100, 'k'));
            e.Meet();
            e.Meet();
          },
      .server =
          [](End& e) {
            int by_level = epoll_create1(0), by_edge = epoll_create1(0);
            epoll::Add(e, by_level, e.sock, EPOLLIN | EPOLLONESHOT, 1);
            epoll::Add(e, by_edge, e.sock, EPOLLIN | EPOLLET | EPOLLONESHOT, 2);
            e.Meet();
            epoll::Wait(e, by_level, 1000);
            epoll::Wait(e, by_edge, 1000);
            e.Meet();
            SwitchReader(e);
            e.Meet();
            e.AwaitBytes(e.sock, 1 + kKept + 100);
            epoll::Wait(e, by_level, 0);
            epoll::Wait(e, by_edge, 0);
            epoll::Mod(e, by_level, e.sock, EPOLLIN | EPOLLONESHOT, 1);
            epoll::Mod(e, by_edge, e.sock, EPOLLIN | EPOLLET | EPOLLONESHOT, 2);
            epoll::Wait(e, by_level, 0);
            epoll::Wait(e, by_edge, 0);
            close(by_level);
            close(by_edge);
            e.Meet();
          }}};

// On a new connection, as that of the case may have moved. The writer is far from its library until it is killed, so
// its last bytes stay in the ring unless the agent brings them back; in front of them is what is unread on TCP.
CASE{"switch: a writer is killed before it brings back what lies behind unread bytes of TCP",
     {.client =
          [](End& e) {
            e.Meet();
            e.sock = e.Connect();
            SwitchWriter(e);
            e.SendAll(e.sock, kLast);
            e.Meet();
            Sleep(50);
            kill(getpid(), SIGKILL);
          },
      .server =
          [](End& e) {
            const int listener = e.Listen();
            e.Meet();
            e.sock = e.Accept(listener);
            SwitchReader(e);
            e.AwaitBytes(e.sock, kKept + static_cast<int>(kLast.size()));
            e.Meet();
            const int on = 1;
            DO(setsockopt(e.sock, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on));
            std::string all;
            char bytes[700];
            ssize_t n;
            while ((n = recv(e.sock, bytes, sizeof bytes, 0)) > 0) all.append(bytes, static_cast<size_t>(n));
            e.Say("%zd after %zu bytes, %s", n, all.size(),
                  all.find_first_not_of('k') == all.size() - kLast.size() ? "in order" : all.c_str());
          },
      .hands_on = true}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
