// What goes out to libraries: sent at once, or kept until there is room.
#include <fcntl.h>
#include <sys/epoll.h>

#include <algorithm>

#include "heterosock/agent/agent_impl.h"

namespace heterok8s::heterosock::agent {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxOutgoing = 1024;  // messages a library may leave unread before it is given up
// Between tries to send what the kernel has no room for.
constexpr std::chrono::milliseconds kFirstPause{1}, kLongestPause{64};

}  // namespace

void Agent::Impl::Send(Session& session, std::string bytes, const std::vector<int>& descriptors) {
  if (session.outgoing.empty()) {
    // A library that is gone is noticed by its socket.
    const Sent sent = SendPacket(session.fd.get(), bytes, descriptors);
    if (sent == Sent::kSent || sent == Sent::kGone) return;
    WaitFor(session.fd.get(), session.id, sent);
  }
  if (session.outgoing.size() >= kMaxOutgoing) {
    doomed_.emplace(session.id, "it does not read");
    return;
  }
  Session::Outgoing& kept = session.outgoing.emplace_back();
  kept.bytes = std::move(bytes);
  for (int fd : descriptors) kept.descriptors.emplace_back(fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

bool Agent::Impl::Flush(Session& session) {
  Sent sent = Sent::kSent;
  while (sent == Sent::kSent && !session.outgoing.empty()) {
    Session::Outgoing& next = session.outgoing.front();
    std::vector<int> descriptors;
    for (const sys::UniqueFd& fd : next.descriptors) descriptors.push_back(fd.get());
    sent = SendPacket(session.fd.get(), next.bytes, descriptors);
    if (sent == Sent::kSent) session.outgoing.pop_front();
  }
  if (sent != Sent::kGone) WaitFor(session.fd.get(), session.id, sent);
  return sent != Sent::kGone;
}

void Agent::Impl::WaitFor(int fd, uint64_t tag, Sent last) {
  Watch(fd, tag, EPOLLIN | (last == Sent::kFull ? static_cast<uint32_t>(EPOLLOUT) : 0u), /*change=*/true);
  if (last != Sent::kLater) {
    later_.erase(tag);
    return;
  }
  if (later_.empty()) {
    pause_ = kFirstPause;
    retry_at_ = Clock::now() + pause_;
  }
  later_.insert(tag);
}

void Agent::Impl::TryAgain() {
  const std::set<uint64_t> all = later_;
  for (uint64_t tag : all) {
    auto session = sessions_.find(tag);
    if (tag == kLinkTag) {
      FlushLink();
    } else if (session == sessions_.end()) {
      later_.erase(tag);  // it was refused, and is closed
    } else if (!Flush(session->second)) {
      Close(tag, nullptr);
    }
  }
  pause_ = later_.size() < all.size() ? kFirstPause : std::min(2 * pause_, kLongestPause);
  retry_at_ = Clock::now() + pause_;
}

}  // namespace heterok8s::heterosock::agent
