// The flags of recv and send.
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {
namespace {

// The server's end does `with` after the client has written `bytes` and they are readable.
Body AfterBytes(const char* bytes, std::function<void(End&)> with) {
  std::string text = bytes;
  return {.client =
              [text](End& e) {
                e.SendAll(e.sock, text);
                e.Meet();
                e.Meet();
              },
          .server =
              [text, with](End& e) {
                e.Meet();
                e.AwaitBytes(e.sock, static_cast<int>(text.size()));
                with(e);
                e.Meet();
              }};
}

CASE{"flags: MSG_PEEK leaves the bytes", AfterBytes("abcdefgh", [](End& e) {
       e.Recv(e.sock, 3, MSG_PEEK);
       e.Recv(e.sock, 100, MSG_PEEK);
       e.Recv(e.sock, 2);
       e.Recv(e.sock, 100, MSG_PEEK | MSG_DONTWAIT);
       e.Recv(e.sock, 100);
       e.Recv(e.sock, 100, MSG_PEEK | MSG_DONTWAIT);
     })};

CASE{"flags: MSG_PEEK by recvmsg and recvfrom", AfterBytes("abcdefgh", [](End& e) {
       char a[3], b[3];
       iovec pieces[2] = {{a, 3}, {b, 3}};
       msghdr message{};
       message.msg_iov = pieces;
       message.msg_iovlen = 2;
       DO(recvmsg(e.sock, &message, MSG_PEEK));
       e.Say("%.3s%.3s flags %#x", a, b, static_cast<unsigned>(message.msg_flags));
       DO(recvfrom(e.sock, a, 3, MSG_PEEK, nullptr, nullptr));
       e.Say("%.3s", a);
       e.Recv(e.sock, 100);
     })};

CASE{"flags: MSG_PEEK sees what came after the last look",
     {.client =
          [](End& e) {
            for (const char* part : {"one", "two", "three"}) {
              e.SendAll(e.sock, part);
              e.Meet();
              e.Meet();
            }
          },
      .server =
          [](End& e) {
            for (int there : {3, 6, 11}) {
              e.Meet();
              e.AwaitBytes(e.sock, there);
              e.Recv(e.sock, 100, MSG_PEEK);
              e.Meet();
            }
            e.Recv(e.sock, 100);
          }}};

CASE{"flags: MSG_PEEK waits for the first byte",
     {.client =
          [](End& e) {
            Sleep(20);
            e.SendAll(e.sock, "late");
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.Recv(e.sock, 4, MSG_PEEK | MSG_WAITALL);
            e.Recv(e.sock, 10);
          }}};

CASE{"flags: MSG_DONTWAIT with nothing there", AfterBytes("", [](End& e) {
       e.Recv(e.sock, 10, MSG_DONTWAIT);
       e.Recv(e.sock, 10, MSG_DONTWAIT | MSG_WAITALL);
       e.Recv(e.sock, 10, MSG_DONTWAIT | MSG_PEEK);
     })};

CASE{"flags: MSG_WAITALL takes what is there when it may not wait",
     AfterBytes("abc", [](End& e) { e.Recv(e.sock, 10, MSG_DONTWAIT | MSG_WAITALL); })};

CASE{"flags: MSG_WAITALL collects several writes",
     {.client =
          [](End& e) {
            for (int i = 0; i < 10; ++i) {
              e.SendAll(e.sock, Pattern(1000, static_cast<uint32_t>(i)));
              Sleep(1);
            }
            e.Drain(e.sock, 10);
          },
      .server = [](End& e) { e.Recv(e.sock, 10000, MSG_WAITALL); }}};

CASE{"flags: MSG_WAITALL ends short at the end of the stream",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "abc");
            Sleep(10);
            DO(close(e.sock));
          },
      .server =
          [](End& e) {
            e.Recv(e.sock, 10, MSG_WAITALL);
            e.Recv(e.sock, 10, MSG_WAITALL);
          }}};

CASE{"flags: MSG_PEEK and MSG_WAITALL wait for all of it",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "abc");
            SendToSleeper(e, 20, "def");
          },
      .server =
          [](End& e) {
            timeval limit{0, 50'000};
            e.AwaitBytes(e.sock, 3);
            e.Recv(e.sock, 4, MSG_PEEK | MSG_WAITALL | MSG_DONTWAIT);
            e.Meet();
            e.Recv(e.sock, 5, MSG_PEEK | MSG_WAITALL);
            e.Recv(e.sock, 2);
            e.Recv(e.sock, 4, MSG_PEEK | MSG_WAITALL);
            DO(setsockopt(e.sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
            e.Recv(e.sock, 5, MSG_PEEK | MSG_WAITALL);
            e.Recv(e.sock, 4, MSG_WAITALL);
            e.Recv(e.sock, 5, MSG_PEEK | MSG_WAITALL);
          },
      .halfway = true}};

CASE{"flags: MSG_PEEK and MSG_WAITALL end short at the end of the stream",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "abc");
            e.Meet();
            Sleep(20);
            e.SendAll(e.sock, "de");
            DO(shutdown(e.sock, SHUT_WR));
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.AwaitBytes(e.sock, 3);
            e.Meet();
            e.Recv(e.sock, 6, MSG_PEEK | MSG_WAITALL);
            e.Recv(e.sock, 6, MSG_PEEK | MSG_WAITALL);
            e.Recv(e.sock, 6, MSG_WAITALL);
            e.Recv(e.sock, 6, MSG_PEEK | MSG_WAITALL);
          },
      .halfway = true}};

CASE{"flags: MSG_PEEK and MSG_WAITALL when the other end is killed",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "abc");
            e.Meet();
            raise(SIGKILL);
          },
      .server =
          [](End& e) {
            e.Meet();
            e.AwaitBytes(e.sock, 3);
            e.Recv(e.sock, 10, MSG_PEEK | MSG_WAITALL);
            e.Recv(e.sock, 10, MSG_PEEK | MSG_WAITALL);
            e.Recv(e.sock, 10, MSG_WAITALL);
            e.Recv(e.sock, 10, MSG_PEEK | MSG_WAITALL);
          }}};

CASE{"flags: MSG_WAITALL larger than every buffer",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, Pattern(9 << 20));
            e.Drain(e.sock, 10);
          },
      .server = [](End& e) { e.Recv(e.sock, 9 << 20, MSG_WAITALL); }}};

CASE{"flags: MSG_WAITALL with SO_RCVTIMEO gives what came",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "abc");
            e.Meet();
            e.Meet();
          },
      .server =
          [](End& e) {
            timeval limit{0, 50'000};
            DO(setsockopt(e.sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
            e.Meet();
            e.AwaitBytes(e.sock, 3);
            e.Recv(e.sock, 10, MSG_WAITALL);
            e.Recv(e.sock, 10, MSG_WAITALL);
            e.Meet();
          }}};

CASE{"flags: MSG_TRUNC throws bytes away", AfterBytes("abcdefgh", [](End& e) {
       DO(recv(e.sock, nullptr, 3, MSG_TRUNC));
       e.Recv(e.sock, 2);
       DO(recv(e.sock, nullptr, 100, MSG_TRUNC | MSG_DONTWAIT));
       e.Recv(e.sock, 2, MSG_DONTWAIT);
     })};

CASE{"flags: MSG_TRUNC with MSG_PEEK", AfterBytes("abcdefgh", [](End& e) {
       DO(recv(e.sock, nullptr, 100, MSG_TRUNC | MSG_PEEK));
       e.Recv(e.sock, 100);
     })};

CASE{"flags: nothing on the error queue", AfterBytes("abc", [](End& e) {
       e.Recv(e.sock, 10, MSG_ERRQUEUE);
       e.Recv(e.sock, 10, MSG_ERRQUEUE | MSG_DONTWAIT);
       e.Recv(e.sock, 10);
     })};

CASE{"flags: flags that mean nothing to a stream", AfterBytes("abc", [](End& e) {
       e.Recv(e.sock, 1, MSG_CMSG_CLOEXEC);
       e.Recv(e.sock, 1, MSG_NOSIGNAL);
       DO(send(e.sock, "x", 1, MSG_CONFIRM));
       DO(send(e.sock, "x", 1, MSG_EOR));
       DO(send(e.sock, "x", 1, MSG_DONTROUTE));
       DO(send(e.sock, "x", 1, MSG_MORE));
       DO(send(e.sock, "x", 1, MSG_ZEROCOPY));
       e.Recv(e.sock, 10);
     })};

CASE{"flags: MSG_MORE and the write that ends it",
     {.client =
          [](End& e) {
            DO(send(e.sock, "head ", 5, MSG_MORE));
            DO(send(e.sock, "body ", 5, MSG_MORE));
            DO(send(e.sock, "end", 3, 0));
            e.Meet();
          },
      .server =
          [](End& e) {
            e.AwaitBytes(e.sock, 13);
            e.Recv(e.sock, 100);
            e.Meet();
          }}};

CASE{"flags: one byte out of band",
     {.client =
          [](End& e) {
            e.Meet();
            DO(send(e.sock, "abc", 3, 0));
            DO(send(e.sock, "xyZ", 3, MSG_OOB));
            DO(send(e.sock, "def", 3, 0));
            e.Meet();
          },
      .server =
          [](End& e) {
            e.Recv(e.sock, 1, MSG_OOB | MSG_DONTWAIT);
            e.Meet();
            e.Meet();
            e.Await(e.sock, POLLPRI);
            pollfd one{e.sock, POLLIN | POLLPRI, 0};
            DO(poll(&one, 1, 1000));
            e.Say("%s", EventNames(static_cast<unsigned>(one.revents)).c_str());
            DO(sockatmark(e.sock));
            e.AwaitBytes(e.sock, 5);
            e.Recv(e.sock, 100);
            DO(sockatmark(e.sock));
            int mark = -1;
            DO(ioctl(e.sock, SIOCATMARK, &mark));
            e.Say("mark %d", mark);
            e.Recv(e.sock, 1, MSG_OOB);
            e.Recv(e.sock, 1, MSG_OOB);
            e.Await(e.sock, POLLIN);
            e.Recv(e.sock, 100);
          },
      .stays = true}};

CASE{"flags: out of band, inline",
     {.client =
          [](End& e) {
            e.Meet();
            DO(send(e.sock, "abc", 3, 0));
            DO(send(e.sock, "Z", 1, MSG_OOB));
            DO(send(e.sock, "def", 3, 0));
            e.Meet();
          },
      .server =
          [](End& e) {
            int one = 1;
            DO(setsockopt(e.sock, SOL_SOCKET, SO_OOBINLINE, &one, sizeof one));
            e.Meet();
            e.Meet();
            e.Await(e.sock, POLLPRI);
            e.Recv(e.sock, 1, MSG_OOB);
            e.Recv(e.sock, 100);
            DO(sockatmark(e.sock));
            e.AwaitBytes(e.sock, 4);
            e.Recv(e.sock, 100);
          },
      .stays = true}};

// Bytes go one way alone until their sender has moved, when both ends can.
void SendOneWay(End& e) {
  using Moved = int (*)(int fd);
  const Moved moved = reinterpret_cast<Moved>(dlsym(RTLD_DEFAULT, "heterosock_moved"));
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  for (bool again = true; again;) {
    e.SendAll(e.sock, Pattern(8192));
    again = moved && (moved(e.sock) & 1) == 0 && std::chrono::steady_clock::now() < end;
    e.Tell(again);
    e.Meet();
    e.Meet();
  }
}

void ReceiveOneWay(End& e) {
  for (bool again = true; again;) {
    e.RecvAll(e.sock, 8192);
    e.Meet();
    again = e.Told() != 0;
    e.Meet();
  }
}

CASE{"flags: out of band over a direction that was silent before",
     {.client =
          [](End& e) {
            SendOneWay(e);
            e.Recv(e.sock, 100);
            e.Meet();
            e.Meet();
            e.Await(e.sock, POLLIN);
            DO(fcntl(e.sock, F_SETFL, O_NONBLOCK));
            e.Recv(e.sock, 3, MSG_PEEK);
            e.Recv(e.sock, 2);
            e.Recv(e.sock, 100);
            e.Recv(e.sock, 100);
            e.Meet();
            e.Meet();
            const int ep = epoll_create1(0);
            epoll_event event{EPOLLIN, {.fd = e.sock}};
            DO(epoll_ctl(ep, EPOLL_CTL_ADD, e.sock, &event));
            DO(epoll_wait(ep, &event, 1, -1));
            e.Recv(e.sock, 100);
            DO(fcntl(e.sock, F_SETFL, 0));
            e.Meet();
            e.Meet();
            e.Await(e.sock, POLLIN);
            int ends[2];
            DO(pipe(ends));
            DO(splice(e.sock, nullptr, ends[1], nullptr, 100, 0));
            DO(splice(e.sock, nullptr, ends[1], nullptr, 100, SPLICE_F_NONBLOCK));
            e.Recv(e.sock, 100, MSG_WAITALL);
          },
      .server =
          [](End& e) {
            ReceiveOneWay(e);
            for (int round = 0; round < 4; ++round) {
              if (round > 0) e.Meet();
              DO(send(e.sock, "U", 1, MSG_OOB));
              DO(send(e.sock, "hello", 5, 0));
              if (round < 3) e.Meet();
            }
            DO(shutdown(e.sock, SHUT_WR));
          },
      .stays = true}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
