#include "heterosock/stream/direction.h"

#include "heterosock/notify/bell.h"

namespace heterok8s::heterosock {

void RepairReceive(uint32_t index) {
  ReceiveState& rx = Slots::Get(index).rx;
  LocalChannel& channel = Slots::Local(index);
  rx.lock.Repaired();
  rx.kernel_event.store(1, std::memory_order_relaxed);  // what the kernel said is asked for again
  if (channel.page == nullptr || rx.mode.load(std::memory_order_relaxed) != Mode::kRing) return;
  layout::SideLines& own = channel.own();
  own.receiver.head.store(rx.head.load(std::memory_order_relaxed), std::memory_order_release);
  rx.rang = 0;  // no value is even: the last one may be rung for once more
  bell::Notify(channel.peer().wait.tx_sleep, rx.rang, own.wait, channel.peer_bell);
}

void RepairSend(uint32_t index) {
  SendState& tx = Slots::Get(index).tx;
  LocalChannel& channel = Slots::Local(index);
  tx.lock.Repaired();
  if (channel.page == nullptr || tx.mode.load(std::memory_order_relaxed) != Mode::kRing) return;
  layout::SideLines& own = channel.own();
  own.sender.ring_base.store(tx.base, std::memory_order_relaxed);
  own.sender.tail.store(tx.tail, std::memory_order_release);
  tx.rang = 0;
  bell::Notify(channel.peer().wait.rx_sleep, tx.rang, own.wait, channel.peer_bell);
}

}  // namespace heterok8s::heterosock
