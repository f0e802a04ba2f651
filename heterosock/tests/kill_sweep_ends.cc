#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "heterosock/tests/case.h"
#include "heterosock/tests/kill_sweep.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr size_t kTaken = 30'000;  // by one receive
constexpr long kMoreDescriptors = 8, kMoreMappings = 16, kMoreMemfds = 2;

const std::string& Bytes() {
  static const std::string bytes = Pattern(1 << 20, 3);
  return bytes;
}

// Waits for `events` of one socket.
class Waiter {
 public:
  Waiter(int fd, Way way, uint32_t events) : fd_(fd), events_(events) {
    if (way == Way::kBlocking) return;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    set_ = epoll_create1(EPOLL_CLOEXEC);
    if (way == Way::kEdge) events |= EPOLLET;
    epoll_event event{events, {.fd = fd}};
    epoll_ctl(set_, EPOLL_CTL_ADD, fd, &event);
  }
  ~Waiter() {
    if (set_ >= 0) close(set_);
  }
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;

  // False: none came in time.
  bool Await(int milliseconds) const {
    epoll_event event{};
    pollfd one{fd_, static_cast<short>(events_), 0};  // EPOLLIN and EPOLLOUT are POLLIN and POLLOUT
    return (set_ >= 0 ? epoll_wait(set_, &event, 1, milliseconds) : poll(&one, 1, milliseconds)) > 0;
  }

 private:
  const int fd_;
  const uint32_t events_;
  int set_ = -1;
};

bool ReceivesFromRing(int fd) {
  static auto* moved = reinterpret_cast<int (*)(int)>(dlsym(RTLD_DEFAULT, "heterosock_moved"));
  return moved != nullptr && (moved(fd) & 2) != 0;
}

}  // namespace

void Stream(int fd, Way way) {
  const Waiter waiter(fd, way, EPOLLIN | EPOLLOUT);
  std::string back(kTaken, '\0');
  size_t at = 0;
  for (size_t i = 0;; ++i) {
    const size_t n = std::min(size_t{1} + i * 7919 % 9000, Bytes().size() - at);
    const ssize_t sent = send(fd, Bytes().data() + at, n, MSG_NOSIGNAL);
    if (sent <= 0 && (way == Way::kBlocking || errno != EAGAIN)) _exit(1);
    if (sent > 0) at = (at + static_cast<size_t>(sent)) % Bytes().size();
    const ssize_t got = recv(fd, back.data(), back.size(), MSG_DONTWAIT);
    if (got == 0) _exit(1);
    // Neither went: an edge of one of them is still to come.
    if (sent < 0 && got < 0 && !waiter.Await(kPatience)) _exit(1);
  }
}

Seen ReadAll(int fd, Way way, const std::function<void()>& has_moved) {
  const Waiter waiter(fd, way, EPOLLIN);
  Seen seen;
  std::string buffer(20'000, '\0');
  while (true) {
    if (!waiter.Await(kPatience)) return seen.wrong = "the end of the dead one did not come", seen;
    do {
      const ssize_t n = recv(fd, buffer.data(), buffer.size(), 0);
      if (n < 0 && errno == EAGAIN && way != Way::kBlocking) break;
      if (n <= 0) {
        if (n < 0 && errno != ECONNRESET) seen.wrong = strerrorname_np(errno);
        return seen;
      }
      if (!seen.moved && ReceivesFromRing(fd)) {
        seen.moved = true;
        has_moved();
      }
      for (ssize_t i = 0; i < n; ++i) {
        if (buffer[static_cast<size_t>(i)] != Bytes()[(seen.bytes + static_cast<size_t>(i)) % Bytes().size()])
          return seen.wrong = "a byte that was not sent", seen;
      }
      seen.bytes += static_cast<size_t>(n);
      send(fd, buffer.data(), static_cast<size_t>(n), MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (way == Way::kEdge);
  }
}

Held Count(pid_t pid) {
  Held held;
  std::error_code ignored;
  const std::string proc = "/proc/" + std::to_string(pid);
  for (const auto& each : std::filesystem::directory_iterator(proc + "/fd", ignored)) {
    ++held.descriptors;
    const std::filesystem::path target = std::filesystem::read_symlink(each.path(), ignored);
    held.memfds += target.string().find("memfd:") != std::string::npos;
  }
  std::ifstream maps(proc + "/maps");
  for (std::string line; std::getline(maps, line); ++held.mappings)
    held.memfds += line.find("memfd:") != std::string::npos;
  return held;
}

bool Grew(const char* who, const Held& before, pid_t pid) {
  Held after;
  const auto more = [&] {
    after = Count(pid);
    return after.descriptors > before.descriptors + kMoreDescriptors ||
           after.mappings > before.mappings + kMoreMappings || after.memfds > before.memfds + kMoreMemfds;
  };
  for (int waited = 0; more() && waited < kPatience; waited += 100) usleep(100'000);
  std::printf("# %s: %ld descriptors, %ld mappings, %ld memfds; after the first cycles %ld, %ld, %ld\n", who,
              after.descriptors, after.mappings, after.memfds, before.descriptors, before.mappings, before.memfds);
  return more();
}

}  // namespace heterok8s::heterosock::behaviour
