// What the cases of epoll share: calls that say what they did, and a pair of ends that goes from part to part.
#pragma once

#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour::epoll {

// epoll_wait; says the events by the number they were added with, in that order (Linux promises no other).
inline int Wait(End& e, int ep, int timeout, int room = 16) {
  std::vector<epoll_event> events(static_cast<size_t>(room));
  errno = 0;
  int n = epoll_wait(ep, events.data(), room, timeout);
  std::string text = n < 0 ? strerrorname_np(errno) : "";
  events.resize(static_cast<size_t>(std::max(n, 0)));
  std::sort(events.begin(), events.end(),
            [](const epoll_event& a, const epoll_event& b) { return a.data.u64 < b.data.u64; });
  for (const epoll_event& each : events)
    text += " [" + std::to_string(each.data.u64) + " " + EventNames(each.events) + "]";
  e.Say("epoll_wait = %d%s", n, text.c_str());
  return n;
}

inline long Control(End& e, int ep, int operation, int fd, uint32_t events, uint64_t data) {
  epoll_event event{events, {.u64 = data}};
  errno = 0;
  int result = epoll_ctl(ep, operation, fd, &event);
  return e.Did(operation == EPOLL_CTL_ADD ? "add" : "mod", result, errno);
}

inline long Add(End& e, int ep, int fd, uint32_t events, uint64_t data = 1) {
  return Control(e, ep, EPOLL_CTL_ADD, fd, events, data);
}
inline long Mod(End& e, int ep, int fd, uint32_t events, uint64_t data = 1) {
  return Control(e, ep, EPOLL_CTL_MOD, fd, events, data);
}

// The client writes each part when the server calls Next(); then closes after one more.
inline Body Parts(std::vector<std::string> parts, std::function<void(End&, std::function<void()> next)> server) {
  return {.client =
              [parts](End& e) {
                for (const std::string& part : parts) {
                  e.Meet();
                  e.SendAll(e.sock, part);
                  e.Meet();
                }
                e.Meet();
                close(e.sock);
                e.Meet();
              },
          .server =
              [parts, server](End& e) {
                size_t at = 0;
                auto next = [&e, parts, &at] {
                  int before = 0;
                  if (at < parts.size()) before = static_cast<int>(parts[at].size());
                  e.Meet();
                  e.Meet();
                  ++at;
                  if (before)
                    e.AwaitBytes(e.sock, before);
                  else
                    e.Await(e.sock, POLLRDHUP);
                };
                server(e, next);
                while (at <= parts.size()) {
                  e.Meet();
                  e.Meet();
                  ++at;
                }
              }};
}

inline Body Fenced(Body body) {
  body.fenced = true;
  return body;
}

}  // namespace heterok8s::heterosock::behaviour::epoll
