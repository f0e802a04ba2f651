#include "heterosock/epoll/look.h"

#include <poll.h>
#include <sys/epoll.h>

#include "heterosock/epoll/pool.h"
#include "heterosock/stream/stream.h"

namespace heterok8s::heterosock {
namespace {

constexpr uint32_t kConditions = EPOLLIN | EPOLLOUT | EPOLLPRI | EPOLLRDHUP | EPOLLERR | EPOLLHUP;

}  // namespace

uint32_t Look(Item& item) {
  const uint32_t wanted = item.events & kConditions;
  const bool edge_triggered = (item.events & EPOLLET) != 0;
  if ((wanted & EPOLLOUT) == 0 && NothingToReceive(item.slot)) return 0;
  Slot& slot = Slots::Get(item.slot);
  LocalChannel& channel = Slots::Local(item.slot);
  // Read before the state, so that what comes later makes an edge of its own.
  const uint64_t tail = channel.page != nullptr ? channel.peer().sender.tail.load(std::memory_order_acquire) : 0;
  const uint32_t full = slot.tx.full.load(std::memory_order_relaxed);
  const uint64_t tcp = edge_triggered ? ArrivedOverTcp(item.slot, item.fd) : 0;
  const uint32_t all = static_cast<uint16_t>(Readiness(item.slot, item.fd, static_cast<short>(wanted | EPOLLRDHUP)));
  const uint32_t ready = all & (wanted | EPOLLERR | EPOLLHUP);
  if (ready == 0) return 0;
  if (!edge_triggered) return ready;
  const bool edge = item.edge || tail != item.seen_tail || ((ready & EPOLLOUT) != 0 && full != item.seen_full) ||
                    tcp != item.seen_tcp || (all & kEnds & ~item.seen_ends) != 0;
  if (!edge) return 0;
  item.edge = false;
  item.seen_tcp = tcp;
  item.seen_tail = tail;
  item.seen_ends = all & kEnds;
  if (ready & EPOLLOUT) item.seen_full = full;
  return ready;
}

}  // namespace heterok8s::heterosock
