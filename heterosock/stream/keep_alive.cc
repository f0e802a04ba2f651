#include "heterosock/stream/keep_alive.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "heterosock/lib/process.h"
#include "heterosock/lib/real.h"

namespace heterok8s::heterosock {
namespace {

// -1: the kernel does not say.
int Option(int fd, int level, int name) {
  int value = -1;
  socklen_t length = sizeof value;
  Syscall(SYS_getsockopt, fd, level, name, reinterpret_cast<long>(&value), reinterpret_cast<long>(&length));
  return value;
}

bool SetOption(int fd, int level, int name, int value) {
  return Syscall(SYS_setsockopt, fd, level, name, reinterpret_cast<long>(&value), sizeof value) == 0;
}

}  // namespace

void KeepAlive(uint32_t index, int fd) {
  std::atomic<uint32_t>& program_idle = Slots::Get(index).program_idle;
  const int seconds = static_cast<int>(process.keep_alive_s);
  if (seconds == 0 || program_idle.load(std::memory_order_relaxed) != 0) return;
  const int idle = Option(fd, IPPROTO_TCP, TCP_KEEPIDLE);
  if (idle <= 0 || Option(fd, SOL_SOCKET, SO_KEEPALIVE) != 0) return;
  program_idle.store(static_cast<uint32_t>(idle), std::memory_order_relaxed);  // what the program sees from now on
  if (!SetOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, seconds) || !SetOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1))
    EndKeepAlive(index, fd);
}

void EndKeepAlive(uint32_t index, int fd) {
  const uint32_t idle = Slots::Get(index).program_idle.exchange(0, std::memory_order_relaxed);
  if (idle == 0) return;
  SetOption(fd, SOL_SOCKET, SO_KEEPALIVE, 0);
  SetOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, static_cast<int>(idle));  // refused, a sysctl's beyond 32,767: ours stays
}

}  // namespace heterok8s::heterosock
