// The library allocates nothing once a connection has moved: a program that counts its process's allocations sends,
// receives and waits in every way, and none is made. Both ends are threads of one process, which is a connection too.
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "heterosock/tests/agent.h"

namespace {

std::atomic<bool> counting{false};
std::atomic<long> allocations{0};
void Count() {
  if (counting.load()) allocations.fetch_add(1);
}

}  // namespace

// The library finds these before libc's own, as it is loaded into a program that has them.
extern "C" {
void* __libc_malloc(size_t);            // NOLINT
void* __libc_calloc(size_t, size_t);    // NOLINT
void* __libc_realloc(void*, size_t);    // NOLINT
void* __libc_memalign(size_t, size_t);  // NOLINT

void* malloc(size_t size) {
  Count();
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) {
  Count();
  return __libc_calloc(count, size);
}
void* realloc(void* at, size_t size) {
  Count();
  return __libc_realloc(at, size);
}
void* memalign(size_t alignment, size_t size) {
  Count();
  return __libc_memalign(alignment, size);
}
void* mmap(void* at, size_t size, int protection, int flags, int fd, off_t offset) {
  Count();
  return reinterpret_cast<void*>(syscall(SYS_mmap, at, size, protection, flags, fd, offset));
}
}

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr int kBoth = 3;       // heterosock_moved(): sends and receives through shared memory
constexpr int kRounds = 2000;  // of each way
constexpr int kPatience = 60;  // seconds until the connection must have moved

using Moved = int (*)(int);

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  _exit(2);
}

void Connect(int* client, int* server) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* name = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener, name, length) != 0 || listen(listener, 1) != 0 || getsockname(listener, name, &length) != 0)
    Die("listen");
  *client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(*client, name, length) != 0) Die("connect");
  *server = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  if (*server < 0) Die("accept4");
  close(listener);
}

void Echo(int fd) {
  std::vector<char> bytes(1 << 18);
  for (ssize_t n; (n = recv(fd, bytes.data(), bytes.size(), 0)) > 0;) {
    for (ssize_t sent = 0; sent < n;) {
      const ssize_t m = send(fd, bytes.data() + sent, static_cast<size_t>(n - sent), 0);
      if (m <= 0) Die("send");
      sent += m;
    }
  }
}

enum class Way { kPlain, kPoll, kSelect, kEpoll, kVectors, kMessages, kPeek, kCount };

void Await(Way way, int fd, int set) {
  if (way == Way::kPoll) {
    pollfd one{fd, POLLIN, 0};
    poll(&one, 1, -1);
  } else if (way == Way::kSelect) {
    fd_set readable;
    FD_ZERO(&readable);
    FD_SET(fd, &readable);
    select(fd + 1, &readable, nullptr, nullptr, nullptr);
  } else if (way == Way::kEpoll) {
    epoll_event event;
    epoll_wait(set, &event, 1, -1);
  }
}

void Exchange(Way way, int fd, int set, char* bytes, size_t size) {
  iovec parts[2] = {{bytes, size / 2}, {bytes + size / 2, size - size / 2}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  const ssize_t sent = way == Way::kVectors    ? writev(fd, parts, 2)
                       : way == Way::kMessages ? sendmsg(fd, &message, MSG_NOSIGNAL)
                                               : send(fd, bytes, size, MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(size)) Die("send");
  for (size_t have = 0; have < size;) {
    Await(way, fd, set);
    if (way == Way::kPeek) recv(fd, bytes, 1, MSG_PEEK);
    iovec rest{bytes + have, size - have};
    message.msg_iov = &rest;
    message.msg_iovlen = 1;
    const ssize_t n = way == Way::kVectors    ? readv(fd, &rest, 1)
                      : way == Way::kMessages ? recvmsg(fd, &message, 0)
                                              : recv(fd, bytes + have, size - have, 0);
    if (n <= 0) Die("recv");
    have += static_cast<size_t>(n);
  }
}

// In the process that has the library. Exit status 0: it moved, and nothing was allocated.
int Count(const std::string& how) {
  const auto moved = reinterpret_cast<Moved>(dlsym(RTLD_DEFAULT, "heterosock_moved"));
  if (moved == nullptr) Die("no library");
  int client = -1, server = -1;
  Connect(&client, &server);
  const int set = epoll_create1(EPOLL_CLOEXEC);
  epoll_event event{EPOLLIN, {}};
  if (epoll_ctl(set, EPOLL_CTL_ADD, client, &event) != 0) Die("epoll_ctl");
  std::vector<char> bytes(100'000, 'x');
  std::thread echo(Echo, server);
  for (time_t end = time(nullptr) + kPatience;
       (moved(client) != kBoth || moved(server) != kBoth) && time(nullptr) < end;)
    Exchange(Way::kPlain, client, set, bytes.data(), 16);

  counting = true;
  for (int i = 0; i < kRounds; ++i) {
    for (int way = 0; way < static_cast<int>(Way::kCount); ++way) {
      for (size_t size : {1, 16, 5000}) Exchange(static_cast<Way>(way), client, set, bytes.data(), size);
      if (i % 100 == 0) Exchange(static_cast<Way>(way), client, set, bytes.data(), bytes.size());
    }
  }
  // That the counter counts.
  if (how == "--allocate") std::free(std::malloc(1));
  counting = false;

  const bool on_ring = moved(client) == kBoth && moved(server) == kBoth;
  shutdown(client, SHUT_RDWR);
  echo.join();
  std::printf("moved: %d, allocations: %ld\n", on_ring, allocations.load());
  return on_ring && allocations.load() == 0 ? 0 : 1;
}

int RunHooked(const char* how, const std::string& library, const std::string& agent) {
  const pid_t child = fork();
  if (child == 0) {
    setenv("LD_PRELOAD", library.c_str(), 1);
    setenv("HETEROSOCK_AGENT", agent.c_str(), 1);
    execl("/proc/self/exe", "allocation_test", how, static_cast<char*>(nullptr));
    _exit(3);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

int Main(int argc, char** argv) {
  if (argc == 2) return Count(argv[1]);
  const std::string library = BesideThisProgram("../libheterosock.so");
  Agent agent;
  if (library.empty() || !agent.Start()) {
    std::printf("the library or heterosockd is not built\n");
    return 77;
  }
  if (RunHooked("--allocate", library, agent.path()) != 1) {
    std::printf("FAILED: an allocation was not seen\n");
    return 1;
  }
  const int result = RunHooked("--count", library, agent.path());
  std::printf(result == 0 ? "ok\n" : "FAILED: exit %d\n", result);
  return result == 0 ? 0 : 1;
}

}  // namespace
}  // namespace heterok8s::heterosock::behaviour

int main(int argc, char** argv) { return heterok8s::heterosock::behaviour::Main(argc, argv); }
