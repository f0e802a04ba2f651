// epoll: descriptors that are taken out of a set and put back, as programs do that change their mind with each request.
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cstdlib>

#include "heterosock/tests/cases_epoll.h"

namespace heterok8s::heterosock::behaviour {
namespace {

using namespace epoll;  // NOLINT

// A set is told of the other end's reset, and waits again after `then` and after what is left to be read.
Body AfterReset(void (*then)(End&)) {
  return {.client =
              [then](End& e) {
                int ep = epoll_create1(0);
                Add(e, ep, e.sock, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
                e.Meet();
                e.AwaitBytes(e.sock, 3);
                Wait(e, ep, 5000);
                e.Recv(e.sock, 10);
                Wait(e, ep, 0);
                e.Meet();
                e.Meet();  // and the kernel has said all that it says of it
                e.Await(e.sock, POLLHUP);
                Wait(e, ep, 5000);
                Wait(e, ep, 0);
                then(e);
                Wait(e, ep, 10);
                e.Recv(e.sock, 10);
                Wait(e, ep, 10);
                e.Recv(e.sock, 10);
                Wait(e, ep, 10);
              },
          .server =
              [](End& e) {
                e.SendAll(e.sock, "abc");
                e.Meet();
                e.Meet();
                const linger now{1, 0};
                DO(setsockopt(e.sock, SOL_SOCKET, SO_LINGER, &now, sizeof now));
                DO(close(e.sock));
                e.Meet();
              }};
}

CASE{"epoll: taken out and put back with each request",
     {.client =
          [](End& e) {
            char b[4];
            for (ssize_t n; (n = recv(e.sock, b, sizeof b, 0)) > 0;) e.SendAll(e.sock, {b, static_cast<size_t>(n)});
          },
      .server =
          [](End& e) {
            int ep = epoll_create1(0), right = 0;
            epoll_event event{EPOLLIN, {.u64 = 1}};
            DO(epoll_ctl(ep, EPOLL_CTL_ADD, e.sock, &event));
            for (uint32_t i = 0; i < 100; ++i) {
              epoll_ctl(ep, EPOLL_CTL_DEL, e.sock, nullptr);
              event = {EPOLLOUT, {.u64 = i}};
              epoll_ctl(ep, EPOLL_CTL_ADD, e.sock, &event);
              right += epoll_wait(ep, &event, 1, 5000) == 1 && event.events == EPOLLOUT && event.data.u64 == i;
              e.SendAll(e.sock, "ask");
              epoll_ctl(ep, EPOLL_CTL_DEL, e.sock, nullptr);
              event = {EPOLLIN | (i % 2 ? EPOLLET : 0u), {.u64 = i + 1000}};
              epoll_ctl(ep, EPOLL_CTL_ADD, e.sock, &event);
              right += epoll_wait(ep, &event, 1, 5000) == 1 && event.events == EPOLLIN && event.data.u64 == i + 1000;
              right += e.RecvAll(e.sock, 3) == "ask";
            }
            e.Say("%d right", right);
            DO(close(e.sock));
            Wait(e, ep, 0);
          }}};

// Each shutdown() is one, also where it changes nothing.
CASE{"epoll: a shutdown is an edge", Parts({"abc", "de"}, [](End& e, auto next) {
       int ep = epoll_create1(0), in = epoll_create1(0), level = epoll_create1(0);
       const auto wait = [&e, ep, in, level](int timeout) {
         for (int set : {ep, in, level}) Wait(e, set, timeout);
         for (int set : {ep, in, level}) Wait(e, set, 0, 1);
       };
       Add(e, ep, e.sock, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, 1);
       Add(e, in, e.sock, EPOLLIN | EPOLLET, 2);
       Add(e, level, e.sock, EPOLLIN, 3);
       Wait(e, ep, 0);
       next();
       wait(5000);
       for (int i = 0; i < 2; ++i) {
         DO(shutdown(e.sock, SHUT_WR));
         AwaitFinAcknowledged(e.sock);
         wait(0);
       }
       DO(shutdown(e.sock, 77));
       wait(0);
       e.Recv(e.sock, 3);
       DO(shutdown(e.sock, SHUT_WR));
       wait(0);
       next();
       wait(5000);
       e.Recv(e.sock, 1);
       DO(shutdown(e.sock, SHUT_RD));
       wait(0);
     })};

CASE{"epoll: what comes while a descriptor is out of the set", Parts({"abc", "def", "ghi"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       for (uint32_t kind : {uint32_t{EPOLLIN}, uint32_t{EPOLLIN | EPOLLET}, uint32_t{EPOLLIN | EPOLLONESHOT}}) {
         Add(e, ep, e.sock, kind, 1);
         DO(epoll_ctl(ep, EPOLL_CTL_DEL, e.sock, nullptr));
         Mod(e, ep, e.sock, kind, 2);
         DO(epoll_ctl(ep, EPOLL_CTL_DEL, e.sock, nullptr));
         next();
         Wait(e, ep, 20);
         Mod(e, ep, e.sock, kind, 3);
         Add(e, ep, e.sock, kind, 4);
         Add(e, ep, e.sock, kind, 5);
         Wait(e, ep, 5000);
         Wait(e, ep, 0);
         e.RecvAll(e.sock, 3);
         Wait(e, ep, 0);
         DO(epoll_ctl(ep, EPOLL_CTL_DEL, e.sock, nullptr));
       }
       next();
       Wait(e, ep, 0);
     })};

CASE{"epoll: a set of which the connection was taken out, in poll and in a set",
     Parts({"abc", "def"}, [](End& e, auto next) {
       int ep = epoll_create1(0), outer = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN, 1);
       DO(epoll_ctl(ep, EPOLL_CTL_DEL, e.sock, nullptr));
       next();
       pollfd one{ep, POLLIN, 0};
       DO(poll(&one, 1, 20));
       Add(e, outer, ep, EPOLLIN, 2);
       Wait(e, outer, 20);
       Add(e, ep, e.sock, EPOLLIN, 3);
       DO(poll(&one, 1, 5000));
       Wait(e, outer, 5000);
       DO(epoll_ctl(ep, EPOLL_CTL_DEL, e.sock, nullptr));
       Wait(e, outer, 0);
       next();
       Wait(e, outer, 20);
       DO(poll(&one, 1, 0));
     })};

CASE{"epoll: taken out, and closed while a duplicate is open", Parts({"abc", "def"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN, 1);
       DO(epoll_ctl(ep, EPOLL_CTL_DEL, e.sock, nullptr));
       int copy = dup(e.sock), number = e.sock;
       DO(close(e.sock) == 0);
       e.sock = copy;
       next();
       Wait(e, ep, 20);
       DO(epoll_ctl(ep, EPOLL_CTL_DEL, number, nullptr));
       Add(e, ep, copy, EPOLLIN, 2);
       Wait(e, ep, 5000);
       e.RecvAll(e.sock, 3);
       next();
       Wait(e, ep, 5000);
     })};

CASE{"epoll: taken out of one set, left in another", Parts({"abc", "def"}, [](End& e, auto next) {
       int one = epoll_create1(0), other = epoll_create1(0);
       Add(e, one, e.sock, EPOLLIN, 1);
       Add(e, other, e.sock, EPOLLIN | EPOLLET, 2);
       DO(epoll_ctl(one, EPOLL_CTL_DEL, e.sock, nullptr));
       next();
       Wait(e, other, 5000);
       Wait(e, one, 20);
       Add(e, one, e.sock, EPOLLIN, 3);
       Wait(e, one, 5000);
       DO(epoll_ctl(other, EPOLL_CTL_DEL, e.sock, nullptr));
       next();
       Wait(e, other, 20);
       Wait(e, one, 5000);
     })};

CASE{"epoll: edge-triggered, a reset that was told is not told again when a read has had it",
     AfterReset([](End& e) { e.Recv(e.sock, 10); })};
CASE{"epoll: edge-triggered, a reset that was told is not told again when SO_ERROR has had it", AfterReset([](End& e) {
       int error = -1;
       socklen_t length = sizeof error;
       DO(getsockopt(e.sock, SOL_SOCKET, SO_ERROR, &error, &length));
     })};
CASE{"epoll: edge-triggered, a reset that was told is not told again when a program was started",
     AfterReset([](End&) { system("true"); })};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
