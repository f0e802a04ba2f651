#include "heterosock/upgrade/agent_link.h"

#include <linux/sockios.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "heterosock/layout/channel.h"
#include "heterosock/lib/hidden_fd.h"
#include "heterosock/lib/machine.h"
#include "heterosock/lib/process.h"
#include "heterosock/lib/trace.h"
#include "heterosock/protocol/messages.h"
#include "heterosock/protocol/parse.h"

namespace heterok8s::heterosock {
namespace {
constexpr uint64_t kRetryMs = 500;  // how long an agent that is not there is left alone
constexpr uint64_t kSilenceNs = 100 * 1000 * 1000;
}  // namespace

void AgentLink::Forget() {
  CloseHidden(fd_);
  fd_ = -1;
  state_ = kDown;
  welcomed_ = false;
  said_ = nullptr;
  retry_at_ = 0;
  pending_ = 0;
}

void AgentLink::Drop(const char* why, uint64_t retry_ms) {
  if (why != said_) Trace("agent: %s; connections stay where they are", why);
  said_ = why;  // not with each try
  if (state_ != kDown) gone_ = HungUp();
  CloseHidden(fd_);
  fd_ = -1;
  state_ = kDown;
  pending_ = 0;
  retry_at_ = retry_ms == 0 ? ~uint64_t{0} : Nanoseconds() + retry_ms * 1000000;
}

void AgentLink::Connect() {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  // Read at start: programs that show their state in their title (nginx) write over their environment.
  const char* path = process.agent_path[0] != '\0' ? process.agent_path : protocol::kDefaultAgentPath;
  const size_t length = strlen(path);
  if (length >= sizeof address.sun_path) return Drop("the path of its socket is too long", 0);
  memcpy(address.sun_path, path, length);
  const long fd = Syscall(SYS_socket, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return Drop("no descriptor for its socket", kRetryMs);
  // Hidden once there is somebody: it raises the limit of the program for a moment.
  if (Syscall(SYS_connect, fd, reinterpret_cast<long>(&address), sizeof address) != 0) {
    Syscall(SYS_close, fd);
    return Drop("nobody there", kRetryMs);
  }
  fd_ = HideFd(static_cast<int>(fd));
  if (fd_ < 0) return Drop("no number for its socket", kRetryMs);
  auto hello = protocol::Make<protocol::Hello>();
  hello.version_min = hello.version_max = protocol::kVersion;
  hello.layout_version = layout::kChannelVersion;
  state_ = kGreeted;
  if (++number_ == 0) ++number_;
  gone_ = false;
  if (Send(&hello, sizeof hello) != 0) Drop("it takes no messages", kRetryMs);
}

bool AgentLink::Ready() {
  if (state_ == kUp) return pending_ < max_pending_ && Listens();
  if (state_ == kDown && Nanoseconds() >= retry_at_) Connect();
  return false;
}

bool AgentLink::HungUp() const {
  pollfd p = {fd_, 0, 0};
  const timespec now = {};
  return Syscall(SYS_ppoll, reinterpret_cast<long>(&p), 1, reinterpret_cast<long>(&now), 0, 0) == 1 &&
         (p.revents & POLLHUP) != 0;
}

bool AgentLink::Unread() const {
  int bytes = 0;
  return Syscall(SYS_ioctl, fd_, SIOCOUTQ, reinterpret_cast<long>(&bytes)) == 0 && bytes > 0;
}

bool AgentLink::Listens() {
  if (Unread()) return Nanoseconds() - heard_ < kSilenceNs;
  if (heard_ < sent_at_) heard_ = sent_at_;
  return true;
}

long AgentLink::Send(const void* message, size_t bytes, int first, int second) {
  iovec part = {const_cast<void*>(message), bytes};
  const int descriptors[2] = {first, second};
  const size_t count = first < 0 ? 0 : second < 0 ? 1 : 2;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof descriptors)] = {};
  msghdr packet = {};
  packet.msg_iov = &part;
  packet.msg_iovlen = 1;
  if (count > 0) {
    packet.msg_control = control;
    packet.msg_controllen = CMSG_SPACE(count * sizeof(int));
    cmsghdr* header = CMSG_FIRSTHDR(&packet);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), descriptors, count * sizeof(int));
  }
  sent_at_ = Nanoseconds();
  const long sent = Syscall(SYS_sendmsg, fd_, reinterpret_cast<long>(&packet), MSG_DONTWAIT | MSG_NOSIGNAL);
  return sent < 0 ? sent : 0;  // packets are sent whole
}

bool AgentLink::Offer(uint64_t id, int socket) {
  if (state_ != kUp || pending_ >= max_pending_) return false;
  auto offer = protocol::Make<protocol::Offer>();
  offer.offer_id = id;
  if (Send(&offer, sizeof offer, socket) != 0) return false;
  ++pending_;
  return true;
}

bool AgentLink::Resume(const Pairing& held, int socket) {
  if (state_ != kUp) return false;
  auto resume = protocol::Make<protocol::Resume>();
  resume.channel_id = held.channel_id;
  resume.epoch = held.epoch;
  resume.nonce = held.nonce;
  resume.side = static_cast<uint8_t>(held.side);
  const long failed = Send(&resume, sizeof resume, socket, held.memfd);
  return failed == 0 || failed == -EBADF;  // closed behind our back
}

void AgentLink::HandBack(uint64_t channel_id) {
  if (state_ != kUp) return;
  auto message = protocol::Make<protocol::HandBack>();
  message.channel_id = channel_id;
  Send(&message, sizeof message);
}

void AgentLink::Release(uint64_t channel_id, Reason reason) {
  if (state_ != kUp) return;
  auto release = protocol::Make<protocol::Release>();
  release.channel_id = channel_id;
  release.reason = static_cast<uint32_t>(reason);
  // An agent that did not hear of it would keep the channel, its memory and its credit for as long as this process
  // lives. The end of this connection releases all, and the next one says what is left.
  if (Send(&release, sizeof release) != 0) Drop("it does not read", kRetryMs);
}

bool AgentLink::Receive(uint8_t* packet, size_t* bytes, int* fds, size_t* count) {
  iovec part = {packet, protocol::kMaxMessageBytes};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * protocol::kMaxDescriptors)] = {};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const long got = Syscall(SYS_recvmsg, fd_, reinterpret_cast<long>(&message), MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  *count = 0;
  if (got == -EAGAIN || got == -EINTR) return false;
  if (got <= 0) {
    Drop("it is gone", kRetryMs);
    return false;
  }
  heard_ = Nanoseconds();
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t n = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < n && *count < protocol::kMaxDescriptors; ++i)
      memcpy(&fds[(*count)++], CMSG_DATA(header) + i * sizeof(int), sizeof(int));
  }
  *bytes = (message.msg_flags & MSG_TRUNC) != 0 ? 0 : static_cast<size_t>(got);
  if ((message.msg_flags & MSG_CTRUNC) == 0) return true;
  for (; *count > 0; fds[*count] = -1) Syscall(SYS_close, fds[--*count]);
  return true;
}

bool AgentLink::Next(Event* event) {
  while (fd_ >= 0) {
    alignas(8) uint8_t packet[protocol::kMaxMessageBytes];
    size_t bytes = 0, count = 0;
    int fds[protocol::kMaxDescriptors] = {-1, -1, -1};
    if (!Receive(packet, &bytes, fds, &count)) return false;
    *event = Event();
    protocol::Welcome welcome;
    protocol::Refused refused;
    protocol::Paired paired;
    protocol::Declined declined;
    protocol::Fence fence;
    if (state_ == kGreeted && protocol::Parse(packet, bytes, count, welcome)) {
      state_ = kUp;
      welcomed_ = true;
      said_ = nullptr;
      max_pending_ = welcome.max_pending_offers == 0 ? 1 : welcome.max_pending_offers;
      event->kind = Event::kWelcomed;
      return true;
    }
    if (protocol::Parse(packet, bytes, count, refused)) {
      Trace("agent: refused: %s", Text(static_cast<Reason>(refused.reason)));
      Drop("it refused", refused.retry_after_ms);
      return false;
    }
    // This process had no number free, so the kernel passed none (recvmsg(2), MSG_CTRUNC): it cannot be mapped.
    if (protocol::Parse(packet, bytes, count == 0 ? protocol::kMaxDescriptors : count, paired)) {
      if (pending_ > 0) --pending_;
      event->kind = Event::kPaired;
      event->id = paired.offer_id;
      event->pairing = {paired.side,
                        paired.channel_id,
                        paired.epoch,
                        paired.nonce,
                        paired.memory_offset,
                        paired.memory_bytes,
                        fds[0],
                        fds[1],
                        fds[2]};
      return true;
    }
    if (protocol::Parse(packet, bytes, count, declined)) {
      if (pending_ > 0) --pending_;
      event->kind = Event::kDeclined;
      event->id = declined.offer_id;
      event->reason = static_cast<Reason>(declined.reason);
      event->retry_ms = declined.retry_after_ms;
      return true;
    }
    if (protocol::Parse(packet, bytes, count, fence)) {
      event->kind = Event::kFence;
      event->id = fence.channel_id;
      event->reason = static_cast<Reason>(fence.reason);
      return true;
    }
    for (size_t i = 0; i < count; ++i) Syscall(SYS_close, fds[i]);
    Drop("it sent what is no message", 0);
  }
  return false;
}

}  // namespace heterok8s::heterosock
