// epoll, one item: level, edge, one shot, exclusive, modified, ended, duplicated.
#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include "heterosock/tests/cases_epoll.h"

namespace heterok8s::heterosock::behaviour {
namespace {

using namespace epoll;  // NOLINT

CASE{"epoll: level-triggered reports until drained", Parts({"abc", "def"}, [](End& e, auto next) {
       int ep = epoll_create1(EPOLL_CLOEXEC);
       Add(e, ep, e.sock, EPOLLIN | EPOLLRDHUP);
       Wait(e, ep, 0);
       next();
       Wait(e, ep, -1);
       Wait(e, ep, -1);
       e.Recv(e.sock, 1);
       Wait(e, ep, -1);
       e.Recv(e.sock, 10);
       Wait(e, ep, 0);
       next();
       Wait(e, ep, 5000);
       next();
       Wait(e, ep, 0);
       e.Recv(e.sock, 10);
       Wait(e, ep, 0);
       e.Recv(e.sock, 10);
       Wait(e, ep, 0);
     })};

CASE{"epoll: level-triggered, writable at once and all the time", Parts({"abc"}, [](End& e, auto next) {
       int ep = epoll_create(1);
       Add(e, ep, e.sock, EPOLLOUT);
       Wait(e, ep, 0);
       Wait(e, ep, -1);
       Mod(e, ep, e.sock, EPOLLIN | EPOLLOUT);
       Wait(e, ep, -1);
       next();
       Wait(e, ep, -1);
       e.Recv(e.sock, 10);
       Wait(e, ep, -1);
       Mod(e, ep, e.sock, EPOLLIN);
       Wait(e, ep, 10);
     })};

CASE{"epoll: edge-triggered reports each arrival once, drained or not",
     Parts({"abc", "def", "ghi"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN | EPOLLRDHUP | EPOLLET);
       Wait(e, ep, 0);
       next();
       Wait(e, ep, -1);
       Wait(e, ep, 10);
       next();
       Wait(e, ep, 5000);
       Wait(e, ep, 0);
       e.Recv(e.sock, 4);
       Wait(e, ep, 10);
       e.Recv(e.sock, 10);
       next();
       Wait(e, ep, 5000);
       e.Recv(e.sock, 1);
       next();
       Wait(e, ep, 5000);
       Wait(e, ep, 10);
     })};

CASE{"epoll: edge-triggered, both directions", Parts({"abc"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN | EPOLLOUT | EPOLLET);
       Wait(e, ep, 0);
       Wait(e, ep, 0);
       next();
       Wait(e, ep, 5000);
       Wait(e, ep, 0);
     })};

CASE{"epoll: edge-triggered added to what is readable already", Parts({"abc", "def"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       next();
       Add(e, ep, e.sock, EPOLLIN | EPOLLET);
       Wait(e, ep, 0);
       Wait(e, ep, 0);
       Mod(e, ep, e.sock, EPOLLIN | EPOLLET, 2);
       Wait(e, ep, 0);
       Wait(e, ep, 0);
       DO(epoll_ctl(ep, EPOLL_CTL_DEL, e.sock, nullptr));
       Wait(e, ep, 0);
       Add(e, ep, e.sock, EPOLLIN | EPOLLET, 3);
       Wait(e, ep, 0);
       Wait(e, ep, 0);
     })};

CASE{"epoll: one shot, armed again by MOD", Parts({"abc", "def"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN | EPOLLONESHOT);
       next();
       Wait(e, ep, -1);
       Wait(e, ep, 10);
       next();
       Wait(e, ep, 10);
       Mod(e, ep, e.sock, EPOLLIN | EPOLLONESHOT, 2);
       Wait(e, ep, 5000);
       next();
       Wait(e, ep, 10);
       Mod(e, ep, e.sock, EPOLLIN | EPOLLONESHOT | EPOLLET | EPOLLRDHUP, 3);
       Wait(e, ep, 5000);
       Wait(e, ep, 0);
     })};

CASE{"epoll: MOD of what waits for nothing", Parts({"abc"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       Add(e, ep, e.sock, 0);
       next();
       Wait(e, ep, 10);
       Mod(e, ep, e.sock, EPOLLIN);
       Wait(e, ep, 0);
       Mod(e, ep, e.sock, EPOLLOUT);
       Wait(e, ep, 0);
       Mod(e, ep, e.sock, EPOLLPRI);
       Wait(e, ep, 10);
     })};

CASE{"epoll: exclusive in two sets", Parts({"abc"}, [](End& e, auto next) {
       int a = epoll_create1(0), b = epoll_create1(0);
       Add(e, a, e.sock, EPOLLIN | EPOLLEXCLUSIVE);
       Add(e, b, e.sock, EPOLLIN | EPOLLEXCLUSIVE);
       Mod(e, a, e.sock, EPOLLIN);
       next();
       Wait(e, a, -1);
       Wait(e, b, -1);
       e.Recv(e.sock, 10);
       Wait(e, a, 0);
       Wait(e, b, 0);
       Add(e, a, e.sock, EPOLLIN | EPOLLONESHOT | EPOLLEXCLUSIVE);
     })};

CASE{"epoll: in two sets, level and edge", Parts({"abc", "def"}, [](End& e, auto next) {
       int a = epoll_create1(0), b = epoll_create1(0);
       Add(e, a, e.sock, EPOLLIN);
       Add(e, b, e.sock, EPOLLIN | EPOLLET);
       next();
       Wait(e, a, -1);
       Wait(e, b, -1);
       Wait(e, a, -1);
       Wait(e, b, 0);
       next();
       Wait(e, b, 5000);
       Wait(e, a, -1);
     })};

CASE{"epoll: the end, half and whole", Parts({"abc"}, [](End& e, auto next) {
       int ep = epoll_create1(0), edge = epoll_create1(0), deaf = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
       Add(e, edge, e.sock, EPOLLIN | EPOLLRDHUP | EPOLLET);
       Add(e, deaf, e.sock, 0);
       next();
       next();
       Wait(e, ep, 0);
       Wait(e, edge, 0);
       Wait(e, deaf, 0);
       DO(shutdown(e.sock, SHUT_WR));
       e.Await(e.sock, POLLHUP);
       Wait(e, ep, 0);
       Wait(e, edge, 0);
       Wait(e, deaf, 0);
       Wait(e, deaf, 0);
       e.Recv(e.sock, 10);
       Wait(e, ep, 0);
     })};

CASE{"epoll: a reset",
     {.client =
          [](End& e) {
            int ep = epoll_create1(0), deaf = epoll_create1(0);
            Add(e, ep, e.sock, EPOLLIN | EPOLLRDHUP | EPOLLET);
            Add(e, deaf, e.sock, EPOLLONESHOT);
            e.SendAll(e.sock, "never read");
            e.Meet();
            Wait(e, deaf, 5000);
            Wait(e, deaf, 0);
            Wait(e, ep, 0);
            Wait(e, ep, 0);
            e.Recv(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.AwaitBytes(e.sock, 10);
            DO(close(e.sock));
            e.Meet();
          }}};

CASE{"epoll: a full socket becomes writable",
     {.client =
          [](End& e) {
            int level = epoll_create1(0), edge = epoll_create1(0);
            Add(e, level, e.sock, EPOLLOUT | EPOLLIN);
            Add(e, edge, e.sock, EPOLLOUT | EPOLLIN | EPOLLET);
            int total = e.Fill(e.sock);
            Wait(e, level, 10);
            Wait(e, edge, 0);
            Wait(e, edge, 10);
            e.Tell(total);
            e.Meet();
            Wait(e, edge, 5000);
            e.Meet();
            Wait(e, level, 0);
            e.Meet();  // no end before this
          },
      .server =
          [](End& e) {
            e.Meet();
            e.RecvAll(e.sock, static_cast<size_t>(e.Told()));
            e.Meet();
            e.Meet();
          }}};

CASE{"epoll: a duplicate keeps the item of a closed descriptor", Parts({"abc", "def"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       int copy = dup(e.sock);
       Add(e, ep, e.sock, EPOLLIN, 7);
       next();
       Wait(e, ep, 0);
       int first = e.sock;
       e.sock = copy;
       DO(close(first) == 0);
       Wait(e, ep, 0);
       e.Recv(copy, 10);
       next();
       Wait(e, ep, 5000);
       epoll_event event{EPOLLIN, {.u64 = 8}};
       DO(epoll_ctl(ep, EPOLL_CTL_MOD, first, &event));
       Add(e, ep, copy, EPOLLIN, 9);
       Wait(e, ep, 0);
     })};

CASE{"epoll: one socket under two descriptors", Parts({"abc"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       int copy = dup(e.sock);
       Add(e, ep, e.sock, EPOLLIN, 1);
       Add(e, ep, copy, EPOLLIN | EPOLLET, 2);
       next();
       Wait(e, ep, 0);
       Wait(e, ep, 0);
       DO(epoll_ctl(ep, EPOLL_CTL_DEL, e.sock, nullptr));
       Wait(e, ep, 0);
       Mod(e, ep, copy, EPOLLIN, 3);
       Wait(e, ep, 0);
     })};

CASE{"epoll: the last close takes the item away", Parts({"abc"}, [](End& e, auto next) {
       int ep = epoll_create1(0), ends[2];
       DO(pipe(ends));
       Add(e, ep, e.sock, EPOLLIN, 1);
       Add(e, ep, ends[0], EPOLLIN, 2);
       next();
       Wait(e, ep, 0);
       e.Recv(e.sock, 10);
       int number = e.sock;
       int copy = dup(e.sock);
       DO(close(number) == 0);
       DO(close(copy) == 0);
       Wait(e, ep, 0);
       DO(write(ends[1], "x", 1));
       Wait(e, ep, 0);
       int fresh = socket(e.family, SOCK_STREAM, 0);
       e.Say("same number again: %d", fresh == number);
       Wait(e, ep, 0);
       Add(e, ep, fresh, EPOLLIN, 3);
       Wait(e, ep, 0);
       DO(close(fresh) == 0);
     })};

CASE{"epoll: what epoll_ctl refuses", Parts({"abc"}, [](End& e, auto) {
       int ep = epoll_create1(0), other = epoll_create1(0), file = open("/proc/self/exe", O_RDONLY);
       Add(e, ep, e.sock, EPOLLIN);
       Add(e, ep, e.sock, EPOLLIN);
       Mod(e, ep, other, EPOLLIN);
       epoll_event event{EPOLLIN, {.u64 = 1}};
       DO(epoll_ctl(ep, EPOLL_CTL_DEL, other, nullptr));
       DO(epoll_ctl(ep, EPOLL_CTL_ADD, ep, &event));
       DO(epoll_ctl(ep, EPOLL_CTL_ADD, file, &event));
       DO(epoll_ctl(ep, EPOLL_CTL_ADD, 1000, &event));
       DO(epoll_ctl(e.sock, EPOLL_CTL_ADD, ep, &event));
       DO(epoll_ctl(1000, EPOLL_CTL_ADD, e.sock, &event));
       DO(epoll_ctl(ep, 77, e.sock, &event));
       DO(epoll_ctl(ep, EPOLL_CTL_MOD, e.sock, nullptr));
       DO(epoll_ctl(ep, EPOLL_CTL_ADD, other, &event));
       DO(epoll_ctl(other, EPOLL_CTL_ADD, ep, &event));
       DO(epoll_wait(ep, &event, 0, 0));
       DO(epoll_wait(ep, &event, -1, 0));
       DO(epoll_wait(e.sock, &event, 1, 0));
       DO(epoll_wait(1000, &event, 1, 0));
       DO(epoll_create(0));
       DO(epoll_create1(1));
     })};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
