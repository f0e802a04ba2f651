#include "heterosock/tests/case.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

namespace heterok8s::heterosock::behaviour {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kWarmBytes = 8 << 10;
constexpr int kWarmRounds = 3;

std::vector<const Case*>& Registry() {
  static std::vector<const Case*> all;
  return all;
}

std::map<std::string, Step, std::less<>>& Steps() {
  static std::map<std::string, Step, std::less<>> all;
  return all;
}

// Exported by the library; absent on plain libc.
using Moved = int (*)(int fd);
Moved FindMoved() { return reinterpret_cast<Moved>(dlsym(RTLD_DEFAULT, "heterosock_moved")); }

}  // namespace

Case::Case(const char* name, Body body) : name(name), body(std::move(body)) { Registry().push_back(this); }
const std::vector<const Case*>& Cases() { return Registry(); }
RegisterStep::RegisterStep(const char* name, Step step) { Steps()[name] = step; }
Step FindStep(std::string_view name) {
  auto found = Steps().find(name);
  return found == Steps().end() ? nullptr : found->second;
}

End::End(Role role, int family, bool warm) : role(role), family(family), stage_(OpenStage()), warm_(warm) {
  met_ = stage_->arrived[static_cast<int>(role)].load();  // not 0 after exec
}

void End::Meet() {
  auto me = static_cast<int>(role);
  stage_->arrived[me].fetch_add(1);
  Wake(stage_->arrived[me]);
  if (!WaitFor(stage_->arrived[1 - me], ++met_)) {
    Say("the other end did not come");
    _exit(9);
  }
}

void End::Tell(int number) { stage_->said[static_cast<int>(role)].store(number); }
int End::Told() const { return stage_->said[1 - static_cast<int>(role)].load(); }

void End::NoteMoved(int fd) {
  Moved moved = FindMoved();
  stage_->moved[static_cast<int>(role)].store(moved ? static_cast<uint32_t>(moved(fd)) : 0);
}

void End::Warm(int fd) {
  std::string bytes(kWarmBytes, 'w');
  Moved moved = FindMoved();
  // A fault may lie after all that is exchanged here, and then keep the connection on TCP.
  const Clock::time_point end = Clock::now() + (stage_->can_move.load() != 0 ? kDeadline / 4 : std::chrono::seconds(1));
  int rounds = 0;
  while (true) {
    if (role == Role::kClient) {
      SendAll(fd, bytes);
      RecvAll(fd, kWarmBytes);
    } else {
      RecvAll(fd, kWarmBytes);
      SendAll(fd, bytes);
    }
    NoteMoved(fd);
    // 0: this end never moves; 1: another round may help; 2: done
    int mine = !moved ? 0 : moved(fd) == 3 || stage_->faulty.load() != 0 || Clock::now() > end ? 2 : 1;
    Tell(mine);
    Meet();
    int theirs = Told();
    Meet();
    if (++rounds >= kWarmRounds && (mine == 0 || theirs == 0 || (mine == 2 && theirs == 2))) return;
  }
}

sockaddr_storage End::Address(int port, socklen_t* length) const {
  sockaddr_storage storage{};
  if (family == AF_INET) {
    auto* v4 = reinterpret_cast<sockaddr_in*>(&storage);
    *v4 = {};
    v4->sin_family = AF_INET;
    v4->sin_port = htons(static_cast<uint16_t>(port));
    v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    *length = sizeof *v4;
  } else {
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&storage);
    *v6 = {};
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(static_cast<uint16_t>(port));
    v6->sin6_addr = in6addr_loopback;
    *length = sizeof *v6;
  }
  return storage;
}

int End::Listen(int backlog) {
  socklen_t length;
  sockaddr_storage address = Address(0, &length);
  int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(fd, backlog) != 0)
    Say("cannot listen: %s", std::strerror(errno));
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
  stage_->port.store(ntohs(reinterpret_cast<sockaddr_in*>(&address)->sin_port));  // at the same place in v6
  return fd;
}

int End::PeerPort() { return static_cast<int>(stage_->port.load()); }

int End::Accept(int from) {
  int fd = accept4(from < 0 ? listener : from, nullptr, nullptr, 0);
  if (fd < 0) Say("cannot accept: %s", std::strerror(errno));
  return fd;
}

int End::Connect() {
  socklen_t length;
  sockaddr_storage address = Address(PeerPort(), &length);
  int fd = socket(family, SOCK_STREAM, 0);
  if (fd < 0 || connect(fd, reinterpret_cast<sockaddr*>(&address), length) != 0)
    Say("cannot connect: %s", std::strerror(errno));
  return fd;
}

void End::Say(const char* format, ...) {
  char line[1024];
  va_list list;
  va_start(list, format);
  int n = std::vsnprintf(line, sizeof line - 1, format, list);
  va_end(list);
  auto length = static_cast<size_t>(n) < sizeof line - 1 ? static_cast<size_t>(n) : sizeof line - 2;
  line[length] = '\n';
  stage_->trace[static_cast<int>(role)].Append({line, length + 1});
}

long End::Did(const char* what, long result, int error) {
  const char* name = strerrorname_np(error);
  if (result == -1) {
    Say("%s = -1 %s", what, name ? name : "?");
  } else {
    Say("%s = %ld%s%s", what, result, error ? ", touched errno: " : "", error ? name : "");
  }
  errno = error;
  return result;
}

long End::Recv(int fd, size_t size, int flags) {
  std::string buffer(size, '\0');
  errno = 0;
  ssize_t n = recv(fd, buffer.data(), size, flags);
  int error = errno;
  if (n < 0) {
    Say("recv %zu flags %#x = -1 %s", size, static_cast<unsigned>(flags), strerrorname_np(error));
  } else if (n <= 64) {
    Say("recv %zu flags %#x = %zd \"%s\"", size, static_cast<unsigned>(flags), n,
        buffer.substr(0, static_cast<size_t>(n)).c_str());
  } else {
    Say("recv %zu flags %#x = %zd sum %llx", size, static_cast<unsigned>(flags), n,
        static_cast<unsigned long long>(Sum({buffer.data(), static_cast<size_t>(n)})));
  }
  errno = error;
  return n;
}

bool End::Await(int fd, short events) {
  pollfd one{fd, events, 0};
  Clock::time_point end = Clock::now() + kDeadline;
  while (Clock::now() < end) {
    if (poll(&one, 1, 100) > 0) return true;
  }
  Say("nothing came");
  return false;
}

bool End::AwaitBytes(int fd, int bytes) {
  Clock::time_point end = Clock::now() + kDeadline;
  while (Clock::now() < end) {
    int there = 0;
    if (ioctl(fd, FIONREAD, &there) == 0 && there >= bytes) return true;
    usleep(200);
  }
  Say("%d bytes did not come", bytes);
  return false;
}

void End::SendAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t n = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN && Await(fd, POLLOUT)) continue;
    if (n <= 0) {
      Say("sending failed: %s", strerrorname_np(errno));
      return;
    }
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

std::string End::RecvAll(int fd, size_t size) {
  std::string bytes(size, '\0');
  size_t have = 0;
  while (have < size) {
    ssize_t n = recv(fd, bytes.data() + have, size - have, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN && Await(fd, POLLIN)) continue;
    if (n <= 0) {
      Say("receiving failed after %zu of %zu: %s", have, size, n == 0 ? "end" : strerrorname_np(errno));
      break;
    }
    have += static_cast<size_t>(n);
  }
  bytes.resize(have);
  return bytes;
}

void End::Drain(int fd, size_t chunk) {
  std::string buffer(chunk, '\0');
  uint64_t sum = Sum("");
  size_t total = 0;
  ssize_t n;
  while (true) {
    n = recv(fd, buffer.data(), chunk, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN && Await(fd, POLLIN)) continue;
    if (n <= 0) break;
    sum = Sum({buffer.data(), static_cast<size_t>(n)}, sum);
    total += static_cast<size_t>(n);
  }
  Say("drained %zu sum %llx, then %s", total, static_cast<unsigned long long>(sum),
      n == 0 ? "end" : strerrorname_np(errno));
}

int End::Fill(int fd) {
  std::string bytes(64 << 10, 'x');
  int total = 0;
  for (int quiet = 0; quiet < 4; ++quiet) {
    for (ssize_t n; (n = send(fd, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL)) > 0; quiet = 0)
      total += static_cast<int>(n);
    if (errno != EAGAIN) Say("filling ended with %s", strerrorname_np(errno));
    usleep(3000);
  }
  return total;
}

int RunEnd(const Case& which, End& end) {
  bool server = end.role == Role::kServer;
  if (server) end.listener = end.Listen();
  if (!which.body.bare) {
    end.Meet();
    end.sock = server ? end.Accept() : end.Connect();
    if (server) close(end.listener);
    if (end.sock < 0) return 1;
    if (end.warm()) end.Warm(end.sock);
  }
  end.Meet();
  (server ? which.body.server : which.body.client)(end);
  return 0;
}

std::vector<std::string> AgainArguments(End& end, const char* step, int fd) {
  return {"/proc/self/exe",
          "--step",
          step,
          end.role == Role::kServer ? "server" : "client",
          end.family == AF_INET ? "4" : "6",
          std::to_string(fd)};
}

void Again(End& end, const char* step, int fd, bool env_clear) {
  std::vector<std::string> words = AgainArguments(end, step, fd);
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  std::string stage = std::string("HETEROSOCK_STAGE=") + std::getenv("HETEROSOCK_STAGE");
  char* bare[] = {stage.data(), nullptr};
  execve(argv[0], argv.data(), env_clear ? bare : environ);
  end.Say("exec failed: %s", std::strerror(errno));
}

void AwaitFinAcknowledged(int fd) {
  for (int i = 0; i < 2000; ++i) {
    tcp_info info{};
    socklen_t length = sizeof info;
    if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) return;
    if (info.tcpi_state != TCP_FIN_WAIT1 && info.tcpi_state != TCP_CLOSING && info.tcpi_state != TCP_LAST_ACK) return;
    usleep(500);
  }
}

std::string Pattern(size_t size, uint32_t seed) {
  std::string bytes(size, '\0');
  uint32_t state = seed * 2654435761u + 1;
  for (char& byte : bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<char>(state >> 24);
  }
  return bytes;
}

uint64_t Sum(std::string_view bytes, uint64_t so_far) {
  for (unsigned char byte : bytes) so_far = (so_far ^ byte) * 1099511628211ull;
  return so_far;
}

std::string EventNames(unsigned events) {
  static constexpr struct {
    unsigned bit;
    const char* name;
  } kNames[] = {{0x1, "IN"},       {0x2, "PRI"},      {0x4, "OUT"},     {0x8, "ERR"},
                {0x10, "HUP"},     {0x20, "NVAL"},    {0x40, "RDNORM"}, {0x80, "RDBAND"},
                {0x100, "WRNORM"}, {0x200, "WRBAND"}, {0x2000, "RDHUP"}};
  std::string text;
  for (const auto& [bit, name] : kNames) {
    if (events & bit) text += (text.empty() ? "" : "|") + std::string(name);
    events &= ~bit;
  }
  if (events) text += "|" + std::to_string(events);
  return text.empty() ? "none" : text;
}

void Echo(End& end) {
  char buffer[5000];
  ssize_t n;
  size_t total = 0;
  while ((n = read(end.sock, buffer, sizeof buffer)) > 0) {
    end.SendAll(end.sock, {buffer, static_cast<size_t>(n)});
    total += static_cast<size_t>(n);
  }
  end.Say("echoed %zu then %zd", total, n);
  close(end.sock);
}

void KeepWaiting(End& end) {
  end.Meet();
  end.SendAll(end.sock, "x");
  end.Meet();
  Sleep(400);
  end.SendAll(end.sock, "y");
}

void WaitIdle(End& end) {
  constexpr long kIdleNs = 20'000'000;  // of the 400 ms; looking before the sleep takes far less
  end.Meet();
  end.Recv(end.sock, 1);
  end.Meet();
  timespec before, after;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
  end.Recv(end.sock, 1);
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
  const long took = (after.tv_sec - before.tv_sec) * 1'000'000'000 + after.tv_nsec - before.tv_nsec;
  end.Say("idle: %d", took < kIdleNs);
}

void SendToSleeper(End& end, int milliseconds, std::string_view bytes) {
  end.Meet();
  Sleep(milliseconds);
  end.SendAll(end.sock, bytes);
  end.Drain(end.sock, 10);
}

void SendOnBothSides(End& end, std::string_view before) {
  end.SendAll(end.sock, before);
  end.Meet();
  end.SendAll(end.sock, Pattern(100'000));
}

bool MillisecondsPassed(const std::function<void()>& call, int at_least) {
  Clock::time_point start = Clock::now();
  call();
  return Clock::now() - start >= std::chrono::milliseconds(at_least);
}

void Sleep(int milliseconds) { usleep(static_cast<useconds_t>(milliseconds) * 1000); }

}  // namespace heterok8s::heterosock::behaviour
