// epoll, sets in sets and sets that share a connection: what is reported once, and who hears of what.
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "heterosock/tests/cases_epoll.h"

namespace heterok8s::heterosock::behaviour {
namespace {

using namespace epoll;  // NOLINT

CASE{"epoll: a set in a set, for one report, and nobody receives", Fenced(Parts({"abc", "def"}, [](End& e, auto next) {
       int inner = epoll_create1(0), outer = epoll_create1(0);
       Add(e, inner, e.sock, EPOLLIN, 1);
       Add(e, outer, inner, EPOLLIN | EPOLLONESHOT, 2);
       next();
       Wait(e, outer, 5000);
       Wait(e, outer, 0);
       next();
       Wait(e, outer, 30);
       pollfd one{outer, POLLIN, 0};
       DO(poll(&one, 1, 0));
       Wait(e, inner, 0);
       Mod(e, outer, inner, EPOLLIN | EPOLLONESHOT, 3);
       DO(poll(&one, 1, 5000));
       Wait(e, outer, 5000);
       Wait(e, outer, 0);
       Mod(e, outer, inner, EPOLLIN, 4);
       Wait(e, outer, 5000);
       Wait(e, outer, 5000);
       e.RecvAll(e.sock, 6);
       Wait(e, outer, 0);
     }))};

CASE{"epoll: an inner set that has fired is armed again while a thread sleeps in the outer one",
     Fenced(Parts({"abc"}, [](End& e, auto next) {
       int inner = epoll_create1(0), outer = epoll_create1(0);
       Add(e, inner, e.sock, EPOLLIN, 1);
       Add(e, outer, inner, EPOLLIN | EPOLLONESHOT, 2);
       next();
       Wait(e, outer, 5000);
       std::thread waiter([&] { Wait(e, outer, 5000); });
       Sleep(20);
       epoll_event event{EPOLLIN | EPOLLONESHOT, {.u64 = 3}};
       epoll_ctl(outer, EPOLL_CTL_MOD, inner, &event);
       waiter.join();
     }))};

CASE{"epoll: poll on sets three deep", Fenced(Parts({"abc", "def", "ghi"}, [](End& e, auto next) {
       int inner = epoll_create1(0), middle = epoll_create1(0), outer = epoll_create1(0);
       Add(e, inner, e.sock, EPOLLIN, 1);
       Add(e, middle, inner, EPOLLIN, 2);
       Add(e, outer, middle, EPOLLIN, 3);
       for (int i = 0; i < 3; ++i) {
         pollfd one{outer, POLLIN, 0};
         DO(poll(&one, 1, 0));
         Wait(e, outer, 0);
         next();
         if (i == 0) Wait(e, inner, 5000);
         DO(poll(&one, 1, 5000));
         DO(poll(&one, 1, 5000));
         Wait(e, outer, 5000);
         Wait(e, middle, 5000);
         if (i == 1) e.Recv(e.sock, 1);
         DO(poll(&one, 1, 0));
         Wait(e, inner, 0);
         e.Recv(e.sock, 10);
         DO(poll(&one, 1, 0));
         Wait(e, outer, 0);
       }
     }))};

// Both hear of what nobody receives, though one of them is first.
CASE{"epoll: two sets with one connection, polled by two threads",
     Fenced(Parts({"a", "b", "c", "d", "e", "f", "g", "h"}, [](End& e, auto next) {
       int first = epoll_create1(0), second = epoll_create1(0);
       Add(e, first, e.sock, EPOLLIN, 1);
       Add(e, second, e.sock, EPOLLIN, 2);
       for (int i = 0; i < 8; ++i) {
         int heard[2] = {};
         auto wait = [&](int who, int set) {
           pollfd one{set, POLLIN, 0};
           epoll_event event;
           heard[who] = i % 4 == 3 && who == 1 ? epoll_wait(set, &event, 1, 3000) : poll(&one, 1, 3000);
         };
         std::thread one([&] { wait(0, first); }), two([&] { wait(1, second); });
         Sleep(5);
         next();
         one.join();
         two.join();
         e.Say("%d %d", heard[0], heard[1]);
         e.Recv(e.sock, 1);
         pollfd both[2] = {{first, POLLIN, 0}, {second, POLLIN, 0}};
         DO(poll(both, 2, 0));
       }
     }))};

CASE{"epoll: a connection is put into a second set while a thread sleeps in the first",
     Parts({"a", "b", "c", "d", "e", "f", "g", "h"}, [](End& e, auto next) {
       int first = epoll_create1(0);
       Add(e, first, e.sock, EPOLLIN, 1);
       for (int i = 0; i < 8; ++i) {
         int second = epoll_create1(0), heard = 0;
         epoll_event event;
         std::thread sleeper([&] { heard = epoll_wait(first, &event, 1, 3000); });
         Sleep(5);
         next();
         epoll_event mine{EPOLLIN, {.u64 = 2}};
         epoll_ctl(second, EPOLL_CTL_ADD, e.sock, &mine);
         sleeper.join();
         e.Say("%d", heard);
         Wait(e, second, 0);
         e.Recv(e.sock, 1);
         close(second);
       }
     })};

CASE{"epoll: a set is taken out of another one", Fenced(Parts({"abc", "def"}, [](End& e, auto next) {
       int inner = epoll_create1(0), outer = epoll_create1(0);
       Add(e, inner, e.sock, EPOLLIN, 1);
       Add(e, outer, inner, EPOLLIN, 2);
       next();
       Wait(e, outer, 5000);
       DO(epoll_ctl(outer, EPOLL_CTL_DEL, inner, nullptr));
       Wait(e, outer, 0);
       pollfd one{outer, POLLIN, 0};
       DO(poll(&one, 1, 0));
       next();
       Wait(e, inner, 5000);
       Wait(e, outer, 30);
       DO(epoll_ctl(outer, EPOLL_CTL_DEL, inner, nullptr));
       for (int i = 0; i < 20; ++i) {  // more than the library keeps of one set
         Add(e, outer, inner, EPOLLIN, 3);
         DO(epoll_ctl(outer, EPOLL_CTL_DEL, inner, nullptr));
       }
       Add(e, outer, inner, EPOLLIN, 4);
       Wait(e, outer, 5000);
     }))};

CASE{"epoll: an inner set is closed, and another one is made", Fenced(Parts({"abc", "def"}, [](End& e, auto next) {
       int inner = epoll_create1(0), outer = epoll_create1(0);
       Add(e, outer, inner, EPOLLIN, 1);
       next();
       DO(close(inner));
       int another = epoll_create1(0);
       Add(e, another, e.sock, EPOLLIN, 2);
       Wait(e, another, 5000);
       Wait(e, outer, 0);
       pollfd one{outer, POLLIN, 0};
       DO(poll(&one, 1, 0));
       Add(e, outer, another, EPOLLIN, 3);
       Wait(e, outer, 5000);
       next();
       Wait(e, outer, 5000);
     }))};

CASE{"epoll: one thread sleeps in a set that another one polls", Fenced(Parts({"abc"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN, 1);
       std::atomic<int> woken{-1};
       std::thread sleeper([&] {
         epoll_event event;
         woken = epoll_wait(ep, &event, 1, 5000);
       });
       Sleep(20);
       std::thread asker([&] {
         pollfd one{ep, POLLIN, 0};
         while (woken == -1) poll(&one, 1, 0);
       });
       next();
       sleeper.join();
       asker.join();
       e.Say("woken for %d", woken.load());
     }))};

// One report more than Linux has is none the less an edge; one for each wait would keep a program busy.
CASE{"epoll: an edge-triggered set in a set, and nobody receives", Fenced(Parts({"abc", "def"}, [](End& e, auto next) {
       int inner = epoll_create1(0), outer = epoll_create1(0);
       auto wait_on = [&] {
         int reports = 0;
         epoll_event event;
         for (int i = 0; i < 20; ++i) reports += epoll_wait(outer, &event, 1, 2);
         e.Say("%s", reports <= 3 ? "told" : "told again and again");
       };
       Add(e, inner, e.sock, EPOLLIN, 1);
       Add(e, outer, inner, EPOLLIN | EPOLLET, 2);
       next();
       Wait(e, outer, 5000);
       wait_on();
       next();
       Wait(e, inner, 5000);
       wait_on();
       Mod(e, outer, inner, EPOLLIN | EPOLLET, 3);
       Wait(e, outer, 5000);
       wait_on();
       e.Recv(e.sock, 6, MSG_WAITALL);
       Wait(e, inner, 0);
       wait_on();
     }))};

// More inner sets than the library keeps of one set: it gives up shared memory then, beside a thread in that set.
CASE{"epoll: many sets in a set in which a thread waits", Fenced(Parts({"abc"}, [](End& e, auto next) {
       const int outer = epoll_create1(0);
       Add(e, outer, e.sock, EPOLLIN | EPOLLOUT, 1);
       std::atomic<bool> over{false};
       std::thread waiter([&] {
         epoll_event event;
         while (!over) epoll_wait(outer, &event, 1, 0);
       });
       int inner[200], added = 0;
       for (int& set : inner) {
         set = epoll_create1(0);
         epoll_event event{EPOLLIN, {.u64 = 2}};
         added += epoll_ctl(outer, EPOLL_CTL_ADD, set, &event) == 0 ? 1 : 0;
       }
       over = true;
       waiter.join();
       e.Say("%d", added);
       next();
       Wait(e, outer, 5000);
       e.Recv(e.sock, 10);
       for (const int set : inner) close(set);
     }))};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
