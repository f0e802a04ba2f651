// From PAIRED to the end of a channel.
#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>

#include "heterosock/agent/agent_impl.h"
#include "heterosock/agent/hand_back.h"
#include "heterosock/protocol/parse.h"

namespace heterok8s::heterosock::agent {
namespace {

constexpr uint32_t kChancesOfAPair = 2;
constexpr size_t kMaxHolders = 64;  // processes of one end, by fork; more are not counted
constexpr char kStuck[] = "what it resumes cannot be closed";

bool IsSameFile(int a, int b) {
  struct stat first {
  }, second{};
  return fstat(a, &first) == 0 && fstat(b, &second) == 0 && first.st_dev == second.st_dev &&
         first.st_ino == second.st_ino;
}

// 0: it is no socket.
uint64_t CookieOf(int fd) {
  uint64_t cookie = 0;
  socklen_t length = sizeof cookie;
  return getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) == 0 ? cookie : 0;
}

}  // namespace

void Agent::Impl::SendPaired(Session& session, uint64_t offer_id, const Channel& channel, int side, int sleeper,
                             int ringer) {
  ++session.paired;
  session.chances = std::min(session.chances + kChancesOfAPair, options_.max_pending_offers);
  protocol::Paired paired = protocol::Make<protocol::Paired>();
  paired.offer_id = offer_id;
  paired.channel_id = channel.name.id;
  paired.epoch = channel.name.epoch;
  paired.nonce = channel.name.nonce;
  paired.memory_bytes = channel.bytes;
  paired.side = static_cast<uint8_t>(side);
  Send(session, std::string(reinterpret_cast<const char*>(&paired), sizeof paired),
       {channel.memory.get(), sleeper, ringer});
}

bool Agent::Impl::Charge(ChannelEnd& end, uint64_t bytes) {
  end.charged = credits_.Take(CreditKey(end.domain), bytes);
  return end.charged;
}

bool Agent::Impl::OnRelease(Session& session, const Packet& packet) {
  protocol::Release message;
  if (!protocol::Parse(packet.bytes.data(), packet.bytes.size(), packet.descriptors.size(), message)) return false;
  ++counters_.releases;
  // The message has no epoch: a process may hold channels of earlier agents too. Each epoch is asked once.
  const std::set<ChannelKey>& held = session.channels;
  for (auto at = held.begin(); at != held.end(); at = held.upper_bound({at->first, ~uint64_t{0}})) {
    const ChannelKey key{at->first, message.channel_id};
    auto channel = channels_.find(key);
    if (!held.contains(key) || channel == channels_.end()) continue;
    // A process connected to itself holds both ends and releases each.
    const int side = channel->second.ends[0].holders.contains(session.id) ? 0 : 1;
    LetGo(key, side, session.id, static_cast<Reason>(message.reason));
    break;
  }
  return true;  // a release of what we do not know is one that an agent before us was told of
}

bool Agent::Impl::OnResume(Session& session, Packet& packet) {
  protocol::Resume message;
  if (!protocol::Parse(packet.bytes.data(), packet.bytes.size(), packet.descriptors.size(), message)) return false;
  ++counters_.resumes;
  sys::UniqueFd socket = std::move(packet.descriptors[0]), memory = std::move(packet.descriptors[1]);
  absl::StatusOr<SocketIdentity> identity = inspector_.Inspect(socket.get());
  const ChannelName name{.id = message.channel_id, .epoch = message.epoch, .nonce = message.nonce};
  const absl::StatusOr<uint64_t> bytes = CheckChannel(memory.get(), name);
  const ChannelKey key{name.epoch, name.id};
  auto found = channels_.find(key);
  const bool other_memory =
      bytes.ok() && found != channels_.end() && !IsSameFile(found->second.memory.get(), memory.get());
  // What is no connection any more is known by its cookie alone; what never was one is not counted.
  const uint64_t cookie = CookieOf(socket.get());
  if (!identity.ok() && found != channels_.end() && cookie != 0 && found->second.ends[message.side].cookie == cookie) {
    identity = SocketIdentity{.cookie = cookie};
  }
  // What cannot be counted is beyond the reach of limits and policy: it is TCP again.
  const auto send_back = [&](Reason reason) {
    protocol::Fence fence = protocol::Make<protocol::Fence>();
    fence.channel_id = name.id;
    fence.reason = static_cast<uint32_t>(reason);
    SendMessage(session, fence);
  };
  // Of an agent before us, for a library that is as old or as new: it is right, and we do not understand its memory.
  const bool other_version = absl::IsUnimplemented(bytes.status());
  if (other_version) send_back(Reason::kVersion);
  if (bytes.ok() && !other_memory && identity.ok() && session.channels.size() < options_.max_channels) {
    if (!Resume(session, name, message.side, *identity, *bytes, memory)) {
      send_back(Reason::kExhausted);
      if (absl::Status asked = AskForTcp(memory.get()); !asked.ok())
        spdlog::debug("channel {} is not counted: {}", name.id, Message(asked));
    }
  }
  // The memory is not ours to close in a hurry either: it need not be a memfd.
  const bool closes = closer_.Close(std::move(socket), session.credit_key);
  if (memory.valid() && !closer_.Close(std::move(memory), session.credit_key)) doomed_.emplace(session.id, kStuck);
  if (!closes) doomed_.emplace(session.id, kStuck);
  return (bytes.ok() || other_version) && !other_memory;
}

bool Agent::Impl::Resume(Session& session, const ChannelName& name, int side, const SocketIdentity& socket,
                         uint64_t bytes, sys::UniqueFd& memory) {
  const ChannelKey key{name.epoch, name.id};
  auto found = channels_.find(key);
  const ChannelEnd* known = found == channels_.end() ? nullptr : found->second.ends;
  ChannelEnd end = known == nullptr ? ChannelEnd() : known[side];
  // An end is one socket for as long as the channel lives; who holds another one speaks for somebody else.
  if (end.on_other_pu || (end.cookie != 0 && end.cookie != socket.cookie)) return false;
  if (known != nullptr && known[1 - side].cookie == socket.cookie) return false;
  if (end.holders.empty()) {
    end.label.pid = session.who.pid;
    end.label.command = session.who.command;
  }
  if (end.cookie == 0) {
    end.label.local = socket.local;
    end.label.remote = socket.remote;
    end.domain = {.netns_cookie = socket.netns_cookie, .pod_uid = session.who.pod_uid, .cgroup = session.who.cgroup};
    end.cookie = socket.cookie;
    end.inode = socket.inode;
  }
  const bool shared =
      known != nullptr && known[1 - side].charged && CreditKey(known[1 - side].domain) == CreditKey(end.domain);
  if (!end.charged && !shared && !Charge(end, bytes)) return false;
  if (end.holders.size() < kMaxHolders) {
    end.holders.insert(session.id);
    session.channels.insert(key);
  }
  if (found == channels_.end()) {
    Channel channel{.name = name, .bytes = bytes};
    channel.memory = std::move(memory);
    found = channels_.emplace(key, std::move(channel)).first;
  }
  found->second.ends[side] = std::move(end);
  if (known == nullptr) CountFromHere(found->second);  // what was before, an agent before us has counted
  // The policy may be another one than when they were joined, and an operator may have spoken meanwhile.
  if (stays_on_tcp_) {
    Fence(key, found->second, Reason::kOperator);
  } else if (!MayShare(found->second)) {
    Fence(key, found->second, Reason::kPolicyChanged);
  }
  return true;
}

bool Agent::Impl::OnHandBack(Session& session, const Packet& packet) {
  protocol::HandBack message;
  if (!protocol::Parse(packet.bytes.data(), packet.bytes.size(), packet.descriptors.size(), message)) return false;
  for (const ChannelKey& key : session.channels) {
    auto found = channels_.find(key);
    if (key.second != message.channel_id || found == channels_.end()) continue;
    // A process connected to itself holds both ends, and means the one that it called back.
    for (int side : {0, 1}) {
      if (found->second.ends[side].holders.contains(session.id) && CalledBack(found->second.memory.get(), side))
        HandBackTo(session, found->second, side);
    }
    return true;
  }
  return true;  // of an agent before us
}

void Agent::Impl::HandBackTo(const Session& asker, Channel& channel, int side) {
  if (std::exchange(channel.ends[side].handed_back, true)) return;
  struct Task {
    uint64_t channel = 0, inode = 0, cookie = 0;
    int side = 0;
    sys::UniqueFd memory;
    std::vector<std::pair<sys::UniqueFd, pid_t>> holders;
    std::shared_ptr<std::atomic<uint64_t>> bytes;
    absl::StatusOr<sys::UniqueFd> socket = absl::NotFoundError("no process of this PU holds the other end");
  };
  const ChannelEnd& sender = channel.ends[1 - side];
  const auto task = std::make_shared<Task>(Task{.channel = channel.name.id,
                                                .inode = sender.inode,
                                                .cookie = sender.cookie,
                                                .side = side,
                                                .bytes = counters_.handed_back});
  task->memory.reset(fcntl(channel.memory.get(), F_DUPFD_CLOEXEC, 0));
  for (uint64_t holder : sender.holders) {
    auto other = sessions_.find(holder);
    if (other == sessions_.end() || !other->second.pidfd.valid()) continue;
    task->holders.emplace_back(fcntl(other->second.pidfd.get(), F_DUPFD_CLOEXEC, 0), other->second.who.pid);
  }
  // Looking through all that a process has open takes as long as it likes. What comes then does not: an agent that
  // ended in the middle would leave the other end waiting for it.
  const auto hand_back = [task] {
    absl::Status why = task->socket.status();
    if (why.ok()) {
      const absl::StatusOr<uint64_t> bytes = HandBack(task->memory.get(), task->side, task->socket->get());
      why = bytes.status();
      if (bytes.ok()) *task->bytes += *bytes;
    }
    // The other end brings them back with its next call.
    if (!why.ok()) spdlog::debug("channel {}: nothing handed back: {}", task->channel, Message(why));
  };
  const auto run = [task, hand_back]() -> Closer::Rest {
    for (const auto& [pidfd, pid] : task->holders) {
      task->socket = TakeSocket(pidfd.get(), pid, task->inode, task->cookie);
      if (task->socket.ok()) break;
    }
    return hand_back;
  };
  closer_.Do(run, asker.credit_key);
}

void Agent::Impl::LetGo(const ChannelKey& key, int side, uint64_t session_id, Reason reason) {
  auto found = channels_.find(key);
  if (found == channels_.end()) return;
  Channel& channel = found->second;
  ChannelEnd& end = channel.ends[side];
  if (end.holders.erase(session_id) == 0) return;
  if (auto session = sessions_.find(session_id); session != sessions_.end()) {
    const bool other_side_too = channel.ends[1 - side].holders.contains(session_id);
    if (!other_side_too) session->second.channels.erase(key);
  }
  if (!end.alive()) {
    if (channel.spans_pus) SendToPu(PuReleased{key.first, key.second, reason});
    if (reason != Reason::kClosed) {
      TellStays("released", end.label, reason, channel.name.id);  // it gave the channel up before it moved
    } else {
      Event({{"event", "released"},
             {"channel", channel.name.id},
             {"pid", end.label.pid},
             {"command", end.label.command},
             {"reason", protocol::ReasonText(reason)}});
    }
  }
  ForgetIfDead(key);
}

void Agent::Impl::ForgetIfDead(const ChannelKey& key) {
  auto found = channels_.find(key);
  if (found == channels_.end()) return;
  Channel& channel = found->second;
  if (channel.ends[0].alive() || channel.ends[1].alive()) return;
  LookAt(channel);
  used_bytes_ -= channel.used;
  for (const ChannelEnd& end : channel.ends) {
    if (end.charged) credits_.GiveBack(CreditKey(end.domain), channel.bytes);
  }
  channels_.erase(found);
}

int Agent::Impl::FenceChannels(Reason reason, const std::function<bool(const Channel&)>& which) {
  int count = 0;
  for (const auto& [key, channel] : channels_) {
    if (!which(channel)) continue;
    ++count;
    Fence(key, channel, reason);
  }
  return count;
}

void Agent::Impl::StayOnTcp(bool stays) {
  if (stays_on_tcp_ == stays) return;
  stays_on_tcp_ = stays;
  spdlog::info(stays ? "an operator has all connections stay on TCP" : "connections may move to shared memory again");
  Event({{"event", stays ? "stay" : "resume"}});
  if (!stays) return;
  std::vector<Offer> waiting = pairing_.RemoveSession(kPuSession);
  for (const auto& [id, session] : sessions_) {
    for (Offer& offer : pairing_.RemoveSession(id)) waiting.push_back(std::move(offer));
  }
  for (const Offer& offer : waiting) Refuse(offer, Reason::kOperator);
}

void Agent::Impl::Fence(const ChannelKey& key, const Channel& channel, Reason reason) {
  ++counters_.fences;
  // FENCE below reaches who offers connections, or receives after a sleep; a process that only sends reads no messages.
  if (absl::Status asked = AskForTcp(channel.memory.get()); !asked.ok()) {
    spdlog::warn("channel {} goes back to TCP when its ends next hear of us: {}", channel.name.id, Message(asked));
  }
  bool on_other_pu = false;
  for (const ChannelEnd& end : channel.ends) {
    on_other_pu = on_other_pu || end.on_other_pu;
    for (uint64_t holder : end.holders) {
      auto session = sessions_.find(holder);
      if (session == sessions_.end()) continue;
      protocol::Fence fence = protocol::Make<protocol::Fence>();
      fence.channel_id = channel.name.id;
      fence.reason = static_cast<uint32_t>(reason);
      SendMessage(session->second, fence);
    }
  }
  if (on_other_pu) SendToPu(PuFence{key.first, key.second, reason});
  Event({{"event", "fence"}, {"channel", channel.name.id}, {"reason", protocol::ReasonText(reason)}});
}

bool Agent::Impl::MayShare(const Channel& channel) const {
  const auto known = [](const Domain& domain) { return domain.netns_cookie != 0; };
  const Domain &first = channel.ends[0].domain, &second = channel.ends[1].domain;
  return !known(first) || !known(second) || policy_.Allows(first, second);
}

}  // namespace heterok8s::heterosock::agent
