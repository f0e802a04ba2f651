// The other PU: offers that wait here are brought there, or the other way round, and channels span both.
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>

#include "heterosock/agent/agent_impl.h"

namespace heterok8s::heterosock::agent {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kReconnect{1};
constexpr int kMessagesPerTurn = 64;

}  // namespace

void Agent::Impl::TendLink() {
  if (!brings_offers() || link_ != nullptr || Clock::now() < next_connect_) return;
  next_connect_ = Clock::now() + kReconnect;
  absl::StatusOr<std::unique_ptr<PuLink>> link = ConnectUnixPuLink(options_.pu_connect);
  if (link.ok()) {
    SetLink(*std::move(link));
  } else {
    link_error_ = Message(link.status());
  }
}

void Agent::Impl::SetLink(std::unique_ptr<PuLink> link) {
  if (link_ != nullptr) DropLink(absl::AbortedError("the other agent connected anew"));
  link_ = std::move(link);
  link_error_.clear();
  Watch(link_->fd(), kLinkTag, EPOLLIN);
  spdlog::info("joined with the other PU's agent at '{}'", link_->Description());
}

void Agent::Impl::DropLink(const absl::Status& why) {
  if (link_ == nullptr) return;
  spdlog::warn("no longer joined with the other PU's agent, new connections between the PUs stay on TCP: {}",
               Message(why));
  link_.reset();
  later_.erase(kLinkTag);
  link_error_ = Message(why);
  brought_.clear();
  remote_offers_.clear();
  remote_numbers_.clear();
  pairing_.RemoveSession(kPuSession);
  // The processes there still have their channels; only the counting of them ends here.
  std::vector<ChannelKey> keys;
  for (auto& [key, channel] : channels_) {
    for (ChannelEnd& end : channel.ends) end.on_other_pu = false;
    keys.push_back(key);
  }
  for (const ChannelKey& key : keys) ForgetIfDead(key);
}

bool Agent::Impl::SendToPu(PuMessage message) {
  if (link_ == nullptr) return false;
  const bool waited = link_->Backlog() != Sent::kSent;
  absl::Status sent = link_->Send(std::move(message));
  if (!waited && link_->Backlog() != Sent::kSent) WaitFor(link_->fd(), kLinkTag, link_->Backlog());
  if (sent.ok()) return true;
  // DropLink changes what callers iterate over; the next turn of the loop finds the link's end.
  self_->Post([why = sent](Agent& agent) { agent.impl_->DropLink(why); });
  return false;
}

void Agent::Impl::Bring(const Offer& offer) {
  // A connection to a loopback address has its other end on this kernel's side of the Pod.
  if (!brings_offers() || link_ == nullptr || offer.socket.remote.address.is_loopback()) return;
  if (!pairing_.Waits(offer.name)) return;
  if (SendToPu(PuOffer{offer, LabelOf(offer)})) brought_.insert(offer.name);
}

void Agent::Impl::OnLink(uint32_t events) {
  if ((events & EPOLLOUT) != 0) FlushLink();
  for (int i = 0; i < kMessagesPerTurn && link_ != nullptr; ++i) {
    absl::StatusOr<std::optional<PuMessage>> message = link_->Receive();
    if (!message.ok()) return DropLink(message.status());
    if (!message->has_value()) return;
    std::visit([this](auto& m) { OnPu(std::move(m)); }, **message);
  }
}

void Agent::Impl::FlushLink() {
  if (link_ == nullptr) return;
  if (absl::Status sent = link_->Flush(); !sent.ok()) return DropLink(sent);
  WaitFor(link_->fd(), kLinkTag, link_->Backlog());
}

void Agent::Impl::OnPu(PuOffer message) {
  if (remote_numbers_.contains(message.offer.name)) return;
  if (stays_on_tcp_) {
    SendToPu(PuDeclined{message.offer.name, Reason::kOperator});
    return;
  }
  const uint64_t number = next_remote_offer_++;
  remote_numbers_[message.offer.name] = number;
  remote_offers_[number] = {message.offer.name, message.label};
  message.offer.name = {kPuSession, number};
  message.offer.brought = true;
  // It expires there first; this one is for an agent that forgets.
  message.offer.deadline = Clock::now() + 2 * options_.offer_deadline;
  Handle(pairing_.Add(std::move(message.offer)));
}

void Agent::Impl::OnPu(PuWithdraw message) {
  auto found = remote_numbers_.find(message.name);
  if (found == remote_numbers_.end()) return;
  pairing_.Remove({kPuSession, found->second});
  remote_offers_.erase(found->second);
  remote_numbers_.erase(found);
}

void Agent::Impl::OnPu(PuPaired message) {
  brought_.erase(message.name);
  std::optional<Offer> offer = pairing_.Remove(message.name);
  auto session = sessions_.find(message.name.session);
  Channel channel{.name = message.channel, .bytes = message.bytes};
  absl::StatusOr<uint64_t> checked = CheckChannel(message.memory.get(), message.channel);
  ChannelEnd& own = channel.ends[message.side & 1];
  if (offer) {
    own = {.label = LabelOf(*offer),
           .domain = offer->domain,
           .cookie = offer->socket.cookie,
           .inode = offer->socket.inode};
  }
  ChannelEnd& other = channel.ends[1 - (message.side & 1)];
  other.label = message.label;
  other.domain = message.domain;
  const bool allowed = !offer || MayShare(channel);  // by this PU's policy, too
  if (!offer || session == sessions_.end() || !checked.ok() || !allowed || !Charge(own, message.bytes)) {
    // It stopped waiting while the message was under way.
    SendToPu(PuReleased{message.channel.epoch, message.channel.id, Reason::kPeerWithdrew});
    if (offer) Refuse(*offer, allowed ? Reason::kExhausted : Reason::kPolicy);
    return;
  }
  channel.memory = std::move(message.memory);
  channel.by_token = offer->socket.token != 0;
  other.on_other_pu = channel.spans_pus = true;
  own.holders.insert(session->first);
  ++counters_.pairs;
  if (channel.by_token) ++counters_.pairs_by_token;
  const ChannelKey key{channel.name.epoch, channel.name.id};
  session->second.channels.insert(key);
  SendPaired(session->second, message.name.offer, channel, message.side & 1, message.sleeper.get(),
             message.ringer.get());
  TellPaired(channel);
  channels_.insert_or_assign(key, std::move(channel));
}

void Agent::Impl::OnPu(PuDeclined message) {
  brought_.erase(message.name);
  if (std::optional<Offer> offer = pairing_.Remove(message.name)) Refuse(*offer, message.reason);
}

void Agent::Impl::OnPu(PuReleased message) {
  const ChannelKey key{message.epoch, message.channel_id};
  auto found = channels_.find(key);
  if (found == channels_.end()) return;
  for (ChannelEnd& end : found->second.ends) end.on_other_pu = false;
  if (message.reason == Reason::kPeerWithdrew) {
    FenceChannels(Reason::kPeerWithdrew, [&](const Channel& channel) {
      return channel.name.epoch == message.epoch && channel.name.id == message.channel_id;
    });
  }
  ForgetIfDead(key);
}

void Agent::Impl::OnPu(PuFence message) {
  auto found = channels_.find({message.epoch, message.channel_id});
  if (found == channels_.end()) return;
  for (const ChannelEnd& end : found->second.ends) {
    for (uint64_t holder : end.holders) {
      auto session = sessions_.find(holder);
      if (session == sessions_.end()) continue;
      protocol::Fence fence = protocol::Make<protocol::Fence>();
      fence.channel_id = message.channel_id;
      fence.reason = static_cast<uint32_t>(message.reason);
      SendMessage(session->second, fence);
    }
  }
}

}  // namespace heterok8s::heterosock::agent
