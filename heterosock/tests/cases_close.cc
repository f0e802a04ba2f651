// shutdown and close: half-close, SIGPIPE, writers and readers at the end.
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "heterosock/tests/cases_close.h"

namespace heterok8s::heterosock::behaviour {
namespace {

CASE{"close: half-close by the client, the answer still comes",
     {.client =
          [](End& e) {
            DO(write(e.sock, "request", 7));
            DO(shutdown(e.sock, SHUT_WR));
            SayEvents(e, e.sock);
            e.Meet();
            e.Drain(e.sock, 100);
            SayEvents(e, e.sock);
          },
      .server =
          [](End& e) {
            e.Drain(e.sock, 3);
            e.Meet();
            e.SendAll(e.sock, Pattern(300'000));
            DO(shutdown(e.sock, SHUT_WR));
            DO(close(e.sock));
          }}};

CASE{"close: half-close both ways, then both sides are hung up",
     {.client =
          [](End& e) {
            DO(shutdown(e.sock, SHUT_WR));
            e.Meet();
            e.Await(e.sock, POLLIN);
            e.Meet();
            SayEvents(e, e.sock);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
            DO(shutdown(e.sock, SHUT_WR));
            DO(shutdown(e.sock, SHUT_RD));
            SayError(e, e.sock);
          },
      .server =
          [](End& e) {
            e.Meet();
            e.Await(e.sock, POLLRDHUP);
            SayEvents(e, e.sock);
            DO(write(e.sock, "", 0));
            DO(shutdown(e.sock, SHUT_WR));
            SayEvents(e, e.sock);
            e.Meet();
            e.Recv(e.sock, 10);
            SayError(e, e.sock);
          }}};

CASE{"close: writing after SHUT_WR",
     {.client =
          [](End& e) {
            IgnoreSigpipe();
            DO(shutdown(e.sock, SHUT_WR));
            DO(write(e.sock, "x", 1));
            DO(send(e.sock, "x", 1, MSG_NOSIGNAL));
            DO(send(e.sock, "", 0, MSG_NOSIGNAL));
            DO(write(e.sock, "", 0));
            e.Meet();
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.Meet();
            e.Recv(e.sock, 1);
            DO(write(e.sock, "still", 5));
          }}};

CASE{"close: SIGPIPE kills",
     {.client =
          [](End& e) {
            DO(shutdown(e.sock, SHUT_WR));
            e.Say("writes");
            write(e.sock, "x", 1);
            e.Say("lives");
          },
      .server = [](End& e) { e.Drain(e.sock, 10); }}};

volatile sig_atomic_t pipes = 0;

CASE{"close: SIGPIPE is caught, by each call that writes",
     {.client =
          [](End& e) {
            signal(SIGPIPE, [](int) { pipes = pipes + 1; });
            DO(shutdown(e.sock, SHUT_WR));
            DO(write(e.sock, "x", 1));
            e.Say("signals %d", static_cast<int>(pipes));
            iovec one{const_cast<char*>("y"), 1};
            DO(writev(e.sock, &one, 1));
            DO(send(e.sock, "x", 1, 0));
            DO(sendto(e.sock, "x", 1, 0, nullptr, 0));
            msghdr message{};
            message.msg_iov = &one;
            message.msg_iovlen = 1;
            DO(sendmsg(e.sock, &message, 0));
            e.Say("signals %d", static_cast<int>(pipes));
            DO(sendmsg(e.sock, &message, MSG_NOSIGNAL));
            DO(send(e.sock, "x", 1, MSG_NOSIGNAL));
            e.Say("signals %d", static_cast<int>(pipes));
          },
      .server = [](End& e) { e.Drain(e.sock, 10); }}};

CASE{"close: SHUT_RD of one's own side",
     {.client =
          [](End& e) {
            e.Meet();
            e.AwaitBytes(e.sock, 3);
            DO(shutdown(e.sock, SHUT_RD));
            SayEvents(e, e.sock);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
            DO(write(e.sock, "onward", 6));
            e.Meet();
          },
      .server =
          [](End& e) {
            DO(write(e.sock, "abc", 3));
            e.Meet();
            e.Await(e.sock, POLLIN);
            e.Recv(e.sock, 10);
            e.Meet();
          }}};

// Its own end is not the other one's, which has the bytes still to read.
CASE{"close: SHUT_RD, and bytes that the other end reads later",
     {.client =
          [](End& e) {
            e.Meet();
            e.Meet();
            e.Say("%d", e.RecvAll(e.sock, 5000) == Pattern(5000));
            e.Meet();
            e.Drain(e.sock, 100);
          },
      .server =
          [](End& e) {
            DO(shutdown(e.sock, SHUT_RD));
            e.Recv(e.sock, 10);
            e.Meet();
            e.SendAll(e.sock, Pattern(5000));
            SayEvents(e, e.sock);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10, MSG_DONTWAIT);
            e.Meet();
            e.Meet();
            DO(write(e.sock, "onward", 6));
            DO(close(e.sock));
          }}};

CASE{"close: SHUT_RD, and who only sends stays in shared memory",
     {.client =
          [](End& e) {
            DO(shutdown(e.sock, SHUT_RD));
            for (int i = 0; i < 20; ++i) {
              Sleep(2);
              e.SendAll(e.sock, "line");
            }
            if (e.warm()) e.NoteMoved(e.sock);
            e.Meet();
          },
      .server =
          [](End& e) {
            e.RecvAll(e.sock, 80);
            e.Meet();
          }}};

CASE{"close: SHUT_RD, and who waits for room takes no CPU",
     {.client =
          [](End& e) {
            DO(shutdown(e.sock, SHUT_RD));
            char bytes[32768] = {};
            while (send(e.sock, bytes, sizeof bytes, MSG_DONTWAIT) > 0) {
            }
            e.Say("%s", strerrorname_np(errno));
            pollfd one{e.sock, POLLOUT, 0};
            timespec before, after;
            clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
            DO(poll(&one, 1, 200));
            clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
            const long took = (after.tv_sec - before.tv_sec) * 1'000'000'000 + after.tv_nsec - before.tv_nsec;
            e.Say("idle: %d", took < 20'000'000);
            e.Meet();
            DO(poll(&one, 1, 5000));
            e.Say("%s", EventNames(static_cast<unsigned>(one.revents & POLLOUT)).c_str());
            e.SendAll(e.sock, "end");
            DO(close(e.sock));
          },
      .server =
          [](End& e) {
            e.Meet();
            char bytes[65536];
            std::string last;
            for (ssize_t n; (n = recv(e.sock, bytes, sizeof bytes, 0)) > 0;) {
              last.append(bytes, static_cast<size_t>(n));
              if (last.size() > 3) last.erase(0, last.size() - 3);
            }
            e.Say("%s", last.c_str());
          }}};

// It shuts no door: the kernel queues what comes, and says the end only where it has nothing.
CASE{"close: SHUT_RD, and what comes afterwards is read",
     {.client =
          [](End& e) {
            e.AwaitBytes(e.sock, 3);
            DO(shutdown(e.sock, SHUT_RD));
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
            e.Meet();
            e.AwaitBytes(e.sock, 4);
            e.Recv(e.sock, 10, MSG_PEEK);
            e.Recv(e.sock, 2);
            e.Recv(e.sock, 10, MSG_WAITALL);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10, MSG_DONTWAIT);
          },
      .server =
          [](End& e) {
            DO(write(e.sock, "abc", 3));
            e.Meet();
            DO(write(e.sock, "late", 4));
            e.Await(e.sock, POLLRDHUP);
          }}};

CASE{"close: SHUT_RD, then a reset",
     {.client =
          [](End& e) {
            DO(shutdown(e.sock, SHUT_RD));
            e.Recv(e.sock, 10);
            e.Meet();
            e.Meet();
            e.Await(e.sock, POLLHUP);
            SayEvents(e, e.sock);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.Meet();
            CloseWithReset(e, e.sock);
            e.Meet();
          }}};

CASE{"close: SHUT_RDWR",
     {.client =
          [](End& e) {
            IgnoreSigpipe();
            DO(shutdown(e.sock, SHUT_RDWR));
            SayEvents(e, e.sock);
            e.Recv(e.sock, 10);
            DO(write(e.sock, "x", 1));
            e.Meet();
            DO(close(e.sock));
          },
      .server =
          [](End& e) {
            e.Drain(e.sock, 10);
            e.Meet();
          }}};

CASE{"close: shutdown of nonsense",
     {.client =
          [](End& e) {
            DO(shutdown(e.sock, 3));
            DO(shutdown(e.sock, -1));
            int fresh = socket(e.family, SOCK_STREAM, 0);
            DO(shutdown(fresh, SHUT_WR));
            DO(close(fresh));
          },
      .server = [](End& e) { e.Drain(e.sock, 10); }}};

CASE{"close: a shutdown with a wrong how ends nothing", {.client = Echo, .server = [](End& e) {
                                                           for (int how : {7, 3, -1}) {
                                                             DO(shutdown(e.sock, how));
                                                             e.SendAll(e.sock, "there and back");
                                                             e.Say("%s", e.RecvAll(e.sock, 14).c_str());
                                                           }
                                                           DO(close(e.sock));
                                                         }}};

CASE{"close: all bytes, then the end, again and again",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, Pattern(100'000));
            DO(close(e.sock));
            e.Meet();
          },
      .server =
          [](End& e) {
            e.Meet();
            e.Drain(e.sock, 9973);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10, MSG_PEEK);
            e.Recv(e.sock, 10, MSG_DONTWAIT);
            SayEvents(e, e.sock);
            SayError(e, e.sock);
          }}};

CASE{"close: the first write after the peer's close succeeds, a later one does not",
     {.client =
          [](End& e) {
            IgnoreSigpipe();
            e.Meet();
            e.Await(e.sock, POLLRDHUP);
            SayEvents(e, e.sock);
            DO(write(e.sock, "one", 3));
            e.Await(e.sock, POLLHUP);
            SayEvents(e, e.sock);
            DO(write(e.sock, "two", 3));
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
            SayEvents(e, e.sock);
          },
      .server =
          [](End& e) {
            DO(close(e.sock));
            e.Meet();
          }}};

CASE{"close: read before write after the peer is gone",
     {.client =
          [](End& e) {
            IgnoreSigpipe();
            e.Meet();
            e.Await(e.sock, POLLRDHUP);
            DO(write(e.sock, "one", 3));
            e.Await(e.sock, POLLHUP);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
            DO(write(e.sock, "two", 3));
            DO(write(e.sock, "three", 5));
          },
      .server =
          [](End& e) {
            DO(close(e.sock));
            e.Meet();
          }}};

CASE{"close: a blocked writer learns that the reader is gone",
     {.client =
          [](End& e) {
            IgnoreSigpipe();
            Much much;
            e.Meet();
            const long n = sendmsg(e.sock, much.message(), 0);
            e.Say("some went: %d", n > 0 && n < much.size());
            errno = 0;
            long again = send(e.sock, "x", 1, 0);
            e.Say("then %ld %s", again, strerrorname_np(errno));
          },
      .server =
          [](End& e) {
            e.Meet();
            e.RecvAll(e.sock, 100'000);
            Sleep(20);
            DO(close(e.sock));
          }}};

CASE{"close: a blocked reader learns of its own shutdown",
     {.client =
          [](End& e) {
            std::thread reader([&e] { e.Recv(e.sock, 10); });
            Sleep(30);
            shutdown(e.sock, SHUT_RDWR);
            reader.join();
          },
      .server = [](End& e) { e.Drain(e.sock, 10); }}};

CASE{"close: a blocked writer ends with what it sent when another thread shuts down",
     {.client =
          [](End& e) {
            Much much;
            long sent = 0;
            std::thread writer([&] { sent = sendmsg(e.sock, much.message(), 0); });
            e.Meet();  // some of it is there
            Sleep(30);
            DO(shutdown(e.sock, SHUT_WR));
            writer.join();
            e.Say("%s", sent > 0 && sent < much.size() ? "a part" : "all or nothing");
            e.Tell(static_cast<int>(sent));
            e.Meet();
          },
      .server =
          [](End& e) {
            e.Await(e.sock, POLLIN);
            e.Meet();
            e.Meet();
            const Much much;
            std::string bytes(1 << 20, '\0');
            long got = 0;
            bool in_order = true;
            for (long n; (n = recv(e.sock, bytes.data(), bytes.size(), 0)) > 0; got += n) {
              in_order = in_order && much.Has({bytes.data(), static_cast<size_t>(n)}, got);
            }
            e.Say("%s", got == e.Told() ? "as many as it says" : "not as many as it says");
            e.Say("%s", in_order ? "in order" : "something else");
          }}};

CASE{"close: a blocked reader learns of the reset",
     {.client = [](End& e) { e.Recv(e.sock, 10); },
      .server =
          [](End& e) {
            Sleep(20);
            CloseWithReset(e, e.sock);
          }}};

CASE{"close: by another thread leaves a blocked reader reading",
     {.client =
          [](End& e) {
            std::thread reader([&e] { e.Recv(e.sock, 10); });
            Sleep(30);
            DO(close(e.sock));
            e.Meet();
            reader.join();
          },
      .server =
          [](End& e) {
            e.Meet();
            Sleep(20);
            DO(send(e.sock, "still here", 10, MSG_NOSIGNAL));
            e.Drain(e.sock, 10);
          }}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
