#include "heterosock/tests/reason_scenarios.h"

#include <aio.h>
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <string>
#include <thread>

#include "heterosock/ctl/admin_client.h"
#include "heterosock/lib/machine.h"

namespace heterok8s::heterosock::behaviour {
namespace {

using protocol::Reason;
using protocol::ReasonText;

constexpr int kBoth = 3;       // heterosock_moved(): sends and receives through shared memory
constexpr int kPatience = 60;  // seconds until something must have happened

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  _exit(2);
}

// Two ends of one connection, both of this process.
struct Ends {
  int client = -1, server = -1;
};

int Connect(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = port;
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) Die("connect");
  return fd;
}

}  // namespace

int ListenOn(uint16_t* port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  auto* name = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener, name, length) != 0 || listen(listener, 8) != 0 || getsockname(listener, name, &length) != 0)
    Die("listen");
  *port = address.sin_port;
  return listener;
}

namespace {

Ends MakeEnds() {
  uint16_t port = 0;
  const int listener = ListenOn(&port);
  Ends ends;
  ends.client = Connect(port);
  ends.server = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  if (ends.server < 0) Die("accept4");
  close(listener);
  return ends;
}

void Exchange(const Ends& ends) {
  char byte = 'x';
  if (send(ends.client, &byte, 1, 0) != 1 || recv(ends.server, &byte, 1, 0) != 1 ||
      send(ends.server, &byte, 1, 0) != 1 || recv(ends.client, &byte, 1, 0) != 1)
    Die("exchange");
}

int trace = -1;  // to read it: a program may have no number left for it later

// Allocates nothing, as some programs have no memory.
bool Said(const char* text) {
  static char all[1 << 18];
  const ssize_t n = pread(trace, all, sizeof all - 1, 0);
  all[n < 0 ? 0 : n] = '\0';
  return std::strstr(all, text) != nullptr;
}

template <typename Do>
void Until(const char* text, Do again) {
  for (const time_t end = time(nullptr) + kPatience; !Said(text);) {
    if (time(nullptr) > end) Die(text);
    again();
  }
}

void Move(const Ends& ends) {
  const auto moved = reinterpret_cast<int (*)(int)>(dlsym(RTLD_DEFAULT, "heterosock_moved"));
  if (moved == nullptr) Die("no library");
  for (const time_t end = time(nullptr) + kPatience; moved(ends.client) != kBoth || moved(ends.server) != kBoth;) {
    if (time(nullptr) > end) Die("it did not move");
    Exchange(ends);
  }
}

void Stamp(int fd) {
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_TIMESTAMP, &on, sizeof on);
}

void AddExclusive(int fd) {
  epoll_event event{EPOLLIN | EPOLLEXCLUSIVE, {}};
  if (epoll_ctl(epoll_create1(EPOLL_CLOEXEC), EPOLL_CTL_ADD, fd, &event) != 0) Die("epoll_ctl");
}

void Pass(int fd) {
  int pair[2];
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
  char byte = 'x';
  iovec part{&byte, 1};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0 || sendmsg(pair[0], &message, 0) != 1)
    Die("sendmsg");
}

void SpliceInto(int fd) {
  int pipes[2];
  if (pipe2(pipes, O_CLOEXEC) != 0 || write(pipes[1], "x", 1) != 1 || splice(pipes[0], nullptr, fd, nullptr, 1, 0) != 1)
    Die("splice");
}

void GiveUpCalls() {
  sock_filter all[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog filter{1, all};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0)
    Die("seccomp");
}

void SelectMany(int fd) {
  static fd_set sets[4];
  FD_SET(fd, &sets[0]);
  timeval now{};
  select(4 * FD_SETSIZE, sets, nullptr, nullptr, &now);
}

bool Sleeps(pid_t thread) {
  std::ifstream stat("/proc/self/task/" + std::to_string(thread) + "/stat");
  std::string number, name, state;
  stat >> number >> name >> state;
  return state == "S";
}

void Read(int fd) {
  static char byte;
  static aiocb request{};
  request.aio_fildes = fd;
  request.aio_buf = &byte;
  request.aio_nbytes = 1;
  if (aio_read(&request) != 0) Die("aio_read");
}

template <void (*kAct)(int)>
void ToClient(const char* line) {
  const Ends ends = MakeEnds();
  kAct(ends.client);
  Until(line, [&] { Exchange(ends); });
}

const Scenario kAll[] = {
    {"the other end has no library", Reason::kNoPeer, kStays,
     [](const char* line) {
       const int fd = Connect(static_cast<uint16_t>(std::atoi(std::getenv("REASONS_PORT"))));
       char byte = 'x';
       Until(line, [&] {
         if (send(fd, &byte, 1, 0) != 1 || recv(fd, &byte, 1, 0) != 1) Die("echo");
       });
     }},
    {"no agent", Reason::kNoAgent, kHeld,
     [](const char* line) {
       const Ends ends = MakeEnds();
       Until(line, [&] { Exchange(ends); });
     },
     "HETEROSOCK_AGENT=/nonexistent/agent.sock"},
    {"an agent that does not run", Reason::kAgentSilent, kHeld,
     [](const char* line) {
       const pid_t agent = std::atoi(std::getenv("REASONS_AGENT"));
       const Ends ends = MakeEnds();
       kill(agent, SIGSTOP);
       Until(line, [&] { Exchange(ends); });
       kill(agent, SIGCONT);
     }},
    {"a child has it", Reason::kShared, kHeld,
     [](const char* line) {
       const Ends ends = MakeEnds();
       const pid_t child = fork();
       if (child == 0) {
         prctl(PR_SET_PDEATHSIG, SIGKILL);
         for (;;) pause();
       }
       Until(line, [&] { Exchange(ends); });
       kill(child, SIGKILL);
       waitpid(child, nullptr, 0);
     }},
    {"an option", Reason::kSocketOption, kStays, ToClient<Stamp>},
    {"out of band", Reason::kOutOfBand, kStays, ToClient<[](int fd) { send(fd, "x", 1, MSG_OOB); }>},
    {"written by a bare system call", Reason::kByteCount, kStays,
     [](const char* line) {
       const Ends ends = MakeEnds();
       char bytes[3] = {};
       BareSyscall(SYS_write, ends.client, reinterpret_cast<long>(bytes), sizeof bytes);
       if (recv(ends.server, bytes, sizeof bytes, MSG_WAITALL) != sizeof bytes) Die("recv");
       Until(line, [&] { Exchange(ends); });
     }},
    {"passed", Reason::kPassed, kStays, ToClient<Pass>},
    {"inherited by a program", Reason::kExec, kReturns,
     [](const char* line) {
       const Ends ends = MakeEnds();
       Move(ends);
       fcntl(ends.client, F_SETFD, 0);
       if (system("true") != 0) Die("system");
       Until(line, [] {});
     }},
    {"standard input", Reason::kStdio, kStays, ToClient<[](int fd) { dup2(fd, 0); }>},
    {"a stream of libc", Reason::kStdio, kStays, ToClient<[](int fd) { fdopen(fd, "r+"); }>},
    {"io_uring", Reason::kIoUring, kStays, ToClient<[](int) {
       char parameters[256] = {};
       syscall(SYS_io_uring_setup, 1, parameters);
     }>},
    {"splice", Reason::kSplice, "goes on sending to TCP: ",
     [](const char* line) {
       const Ends ends = MakeEnds();
       SpliceInto(ends.client);
       Until(line, [] {});
     }},
    {"the other end fences", Reason::kPeerAsked, kReturns,
     [](const char* line) {
       const Ends ends = MakeEnds();
       Move(ends);
       Stamp(ends.client);
       Until(line, [&] { Exchange(ends); });
     }},
    {"the other end shuts its direction", Reason::kPeerClosed, kReturns,
     [](const char* line) {
       const Ends ends = MakeEnds();
       Move(ends);
       shutdown(ends.client, SHUT_WR);
       Until(line, [&] {
         if (send(ends.server, "x", 1, 0) != 1) Die("send");
       });
     }},
    {"shut before it moved", Reason::kClosed, kStays,
     [](const char* line) {
       shutdown(MakeEnds().client, SHUT_WR);
       Until(line, [] {});
     }},
    {"EPOLLEXCLUSIVE", Reason::kEpoll, kStays, ToClient<AddExclusive>},
    {"a set that nobody saw", Reason::kEpoll, kStays, ToClient<[](int) {
       if (BareSyscall(SYS_epoll_create1, EPOLL_CLOEXEC) < 0) Die("epoll_create1");
     }>},
    {"switched off", Reason::kDisabled, "no connection of this process moves to shared memory: ",
     [](const char* line) { Until(line, [] {}); }, "HETEROSOCK=off"},
    {"no memory", Reason::kMemory, kStays,
     [](const char* line) {
       const Ends ends = MakeEnds();
       const rlimit none{4096, 4096};
       if (setrlimit(RLIMIT_AS, &none) != 0) Die("setrlimit");
       Until(line, [&] { Exchange(ends); });
     }},
    {"seccomp", Reason::kSeccomp, kStays, ToClient<[](int) { GiveUpCalls(); }>},
    {"select with a large set", Reason::kLargeSet, kStays, ToClient<SelectMany>},
    {"nobody reads", Reason::kUnread, kReturns,
     [](const char* line) {
       const Ends ends = MakeEnds();
       Move(ends);
       static char bytes[1 << 16];
       Until(line, [&] { send(ends.client, bytes, sizeof bytes, MSG_DONTWAIT); });
     }},
    {"aio_read", Reason::kAio, kStays,
     [](const char* line) {
       Read(MakeEnds().client);
       Until(line, [] {});
     }},
    {"a thread receives all the time", Reason::kInside, kHeld,
     [](const char* line) {
       const Ends ends = MakeEnds();
       std::atomic<pid_t> receiver{0};
       std::thread([&] {
         char byte;
         receiver = gettid();
         recv(ends.client, &byte, 1, 0);
       }).detach();
       while (receiver == 0 || !Sleeps(receiver)) sched_yield();
       Until(line, [&] {
         char byte = 'x';
         if (send(ends.client, &byte, 1, 0) != 1 || recv(ends.server, &byte, 1, 0) != 1) Die("send");
       });
     },
     "HETEROSOCK_OFFER_BYTES=100"},
    {"a single exchange", Reason::kIdle, kEnded,
     [](const char* line) {
       const Ends ends = MakeEnds();
       Exchange(ends);
       close(ends.client);
       Until(line, [] {});
     }},
    {"heterosockctl fence", Reason::kOperator, kReturns,
     [](const char* line) {
       const Ends ends = MakeEnds(), others = MakeEnds();
       Move(ends);
       if (!ctl::Ask(std::getenv("REASONS_ADMIN"), {{"command", "fence"}}).ok()) Die("fence");
       Until(line, [&] { Exchange(others); });
     }},
};
}  // namespace

std::span<const Scenario> Scenarios() { return kAll; }

// In the process that has the library.
int Act(const char* name) {
  alarm(2 * kPatience);
  const char* path = std::getenv("HETEROSOCK_TRACE");
  trace = open(path, O_RDONLY | O_CREAT | O_CLOEXEC, 0600);
  if (trace < 0) Die(path);
  for (const Scenario& each : Scenarios()) {
    if (std::strcmp(each.name, name) != 0) continue;
    each.act((std::string(each.line) + ReasonText(each.reason)).c_str());
    std::fflush(stdout);
    _exit(0);
  }
  return 3;
}

}  // namespace heterok8s::heterosock::behaviour
