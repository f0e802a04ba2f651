#include "heterosock/upgrade/mapping.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "heterosock/lib/hidden_fd.h"
#include "heterosock/lib/trace.h"

namespace heterok8s::heterosock {

void Unmap(LocalChannel& channel) {
  if (channel.page != nullptr)
    Syscall(SYS_munmap, reinterpret_cast<long>(channel.page), static_cast<long>(channel.bytes));
  CloseHidden(channel.memfd);
  CloseHidden(channel.own_bell);
  CloseHidden(channel.peer_bell.fd);
  channel.page = nullptr;
  channel.memfd = channel.own_bell = 0;
  channel.peer_bell = {};
  channel.bell_dead = false;
}

bool Map(LocalChannel& channel, const Pairing& pairing) {
  channel.memfd = HideFd(pairing.memfd);
  channel.own_bell = HideFd(pairing.own_bell);
  channel.peer_bell.fd = HideFd(pairing.peer_bell);
  channel.full_at_head = 0;
  channel.bell_dead = false;  // a waiter may have noted it of the last one when that was closed already
  if (channel.memfd < 0 || channel.own_bell < 0 || channel.peer_bell.fd < 0) return false;
  // An agent without /proc, or an older one, can make an end that is only written.
  const long flags = Syscall(SYS_fcntl, channel.peer_bell.fd, F_GETFL);
  channel.peer_bell.reads = flags >= 0 && (flags & O_ACCMODE) == O_RDWR;
  // Only a memory that cannot shrink may be mapped: else the agent's other customer could make us fault.
  const long seals = Syscall(SYS_fcntl, channel.memfd, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || pairing.bytes < sizeof(layout::ChannelPage)) return false;
  const long size = Syscall(SYS_lseek, channel.memfd, 0, SEEK_END);
  if (size < 0 || pairing.offset > static_cast<uint64_t>(size) ||
      static_cast<uint64_t>(size) - pairing.offset < pairing.bytes)
    return false;
  const long at = Syscall(SYS_mmap, 0, static_cast<long>(pairing.bytes), PROT_READ | PROT_WRITE, MAP_SHARED,
                          channel.memfd, static_cast<long>(pairing.offset));
  if (at < 0 && at > -4096) return false;
  channel.page = reinterpret_cast<layout::ChannelPage*>(at);
  channel.bytes = pairing.bytes;
  layout::ChannelHeader header;
  memcpy(&header, &channel.page->header, sizeof header);
  if (!layout::ValidHeader(header, pairing.bytes)) return false;
  if (header.epoch != pairing.epoch || header.nonce != pairing.nonce) return false;
  uint8_t* base = reinterpret_cast<uint8_t*>(channel.page);
  channel.side = static_cast<uint16_t>(pairing.side);
  channel.ring_bytes = header.ring_bytes;
  channel.out = base + header.ring_offset[pairing.side];
  channel.in = base + header.ring_offset[1 - pairing.side];
  channel.channel_id = pairing.channel_id;
  channel.epoch = pairing.epoch;
  channel.nonce = pairing.nonce;
  return true;
}

// The SYN of the connecting side and a FIN count as one byte each.
bool CountsAgree(Slot& slot, int fd) {
  tcp_info info = {};
  socklen_t length = sizeof info;
  int unsent = 0, unread = 0;
  if (Syscall(SYS_ioctl, fd, SIOCOUTQ, reinterpret_cast<long>(&unsent)) != 0 ||
      Syscall(SYS_ioctl, fd, SIOCINQ, reinterpret_cast<long>(&unread)) != 0 ||
      Syscall(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, reinterpret_cast<long>(&info),
              reinterpret_cast<long>(&length)) != 0) {
    return false;
  }
  // Acknowledgements and bytes may arrive between the three calls, so this is a range, wide enough for what can be
  // under way and narrow enough to notice a writer that bypassed us before.
  const uint64_t sent = slot.tx.calls.bytes();
  const uint64_t received = slot.rx.calls.bytes();
  int unsent_after = 0, unread_after = 0;
  Syscall(SYS_ioctl, fd, SIOCOUTQ, reinterpret_cast<long>(&unsent_after));
  Syscall(SYS_ioctl, fd, SIOCINQ, reinterpret_cast<long>(&unread_after));
  const uint64_t most_sent = info.tcpi_bytes_acked + static_cast<uint64_t>(unsent);
  const uint64_t least_sent = info.tcpi_bytes_acked + static_cast<uint64_t>(unsent_after);
  const uint64_t most_received = info.tcpi_bytes_received - static_cast<uint64_t>(unread);
  const uint64_t least_received = info.tcpi_bytes_received - static_cast<uint64_t>(unread_after);
  const bool sent_agrees = sent + 1 >= least_sent && sent <= most_sent;
  const bool received_agrees = received + 1 >= least_received && received <= most_received + 1;
  if (!sent_agrees || !received_agrees) {
    Trace("fd %d: counted %llu sent and %llu received, the kernel %llu and %llu", fd,
          static_cast<unsigned long long>(sent), static_cast<unsigned long long>(received),
          static_cast<unsigned long long>(most_sent), static_cast<unsigned long long>(most_received));
  }
  return sent_agrees && received_agrees;
}

}  // namespace heterok8s::heterosock
