// From HELLO and OFFER to PAIRED or DECLINED.
#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/random.h>

#include "heterosock/agent/agent_impl.h"
#include "heterosock/layout/channel.h"
#include "heterosock/protocol/parse.h"

namespace heterok8s::heterosock::agent {
namespace {

using Clock = std::chrono::steady_clock;
constexpr size_t kRecentDeclines = 64;
constexpr uint32_t kOnceMoreMs = 1000;      // after which an offer that met no other is worth another try
constexpr uint32_t kMadeRoomMs = 100;       // or one that had to make room
constexpr uint32_t kOperatorMs = 5000;      // or one that an operator wants on TCP
constexpr uint32_t kOtherAgentMs = 60'000;  // after which an agent of another version may have taken our place

uint32_t RetryAfterMs(Reason reason) {
  switch (reason) {
    case Reason::kTooManyOffers:
    case Reason::kExhausted:
    case Reason::kAgentError:
      return 1000;
    case Reason::kOperator:
      return kOperatorMs;
    default:
      return 0;
  }
}

// Why a socket that cannot be inspected is declined.
Reason ReasonOf(const absl::Status& status) {
  if (absl::IsInvalidArgument(status)) return Reason::kNotTcp;
  if (absl::IsNotFound(status)) return Reason::kUnknownSocket;
  return Reason::kAgentError;
}

}  // namespace

bool Agent::Impl::OnHello(Session& session, const Packet& packet) {
  protocol::Hello hello;
  if (!protocol::Parse(packet.bytes.data(), packet.bytes.size(), packet.descriptors.size(), hello)) return false;
  if (hello.version_min > protocol::kVersion || hello.version_max < protocol::kVersion) {
    ++counters_.refused;
    protocol::Refused refused = protocol::Make<protocol::Refused>();
    refused.reason = static_cast<uint32_t>(Reason::kVersion);
    refused.retry_after_ms = kOtherAgentMs;
    refused.version_min = refused.version_max = protocol::kVersion;
    SendMessage(session, refused);
    doomed_.emplace(session.id, "it speaks no version of ours");
    return true;
  }
  session.welcomed = true;
  session.layout_version = hello.layout_version;
  protocol::Welcome welcome = protocol::Make<protocol::Welcome>();
  welcome.version = protocol::kVersion;
  welcome.offer_deadline_ms = static_cast<uint32_t>(options_.offer_deadline.count());
  welcome.epoch = epoch_;
  welcome.max_pending_offers = options_.max_pending_offers;
  welcome.max_channels = options_.max_channels;
  SendMessage(session, welcome);
  return true;
}

bool Agent::Impl::OnOffer(Session& session, Packet& packet) {
  protocol::Offer message;
  if (!protocol::Parse(packet.bytes.data(), packet.bytes.size(), packet.descriptors.size(), message)) return false;
  ++session.offers;
  ++counters_.offers;
  Offer offer{.name = {session.id, message.offer_id},
              .domain = {.pod_uid = session.who.pod_uid, .cgroup = session.who.cgroup},
              .layout_version = session.layout_version,
              .deadline = Clock::now() + options_.offer_deadline};
  if (stays_on_tcp_) {
    Refuse(offer, Reason::kOperator);
    return true;
  }
  if (pairing_.waiting_of(session.id) >= options_.max_pending_offers) {
    Refuse(offer, Reason::kTooManyOffers);
    return true;
  }
  if (session.channels.size() >= options_.max_channels) {
    Refuse(offer, Reason::kExhausted);
    return true;
  }
  if (session.layout_version != layout::kChannelVersion) {
    Refuse(offer, Reason::kVersion);
    return true;
  }
  sys::UniqueFd socket = std::move(packet.descriptors.front());
  absl::StatusOr<SocketIdentity> identity = inspector_.Inspect(socket.get());
  if (identity.ok() && options_.tokens != nullptr) {
    const TokenReader::Token token = options_.tokens->Read(socket.get());
    identity->token = token.value;
    identity->connected = token.connected;
  }
  if (!closer_.Close(std::move(socket), session.credit_key)) {
    doomed_.emplace(session.id, "what it offers cannot be closed");
    return true;
  }
  if (!identity.ok()) {
    spdlog::debug("offer of {} (pid {}): {}", session.who.command, session.who.pid, Message(identity.status()));
    Refuse(offer, ReasonOf(identity.status()));
    return true;
  }
  offer.socket = *identity;
  offer.domain.netns_cookie = identity->netns_cookie;
  Event({{"event", "offer"},
         {"pid", session.who.pid},
         {"command", session.who.command},
         {"local", identity->local.ToString()},
         {"remote", identity->remote.ToString()},
         {"token", identity->token != 0}});
  const Offer copy = offer;
  Handle(pairing_.Add(std::move(offer)));
  Bring(copy);
  MakeRoom(session);
  return true;
}

// A process with more connections than it may offer at once would otherwise wait with offers of some, while the process
// at the other ends waits with offers of others and has no room for these.
void Agent::Impl::MakeRoom(Session& session) {
  if (session.chances == 0 || pairing_.waiting_of(session.id) <= options_.max_pending_offers / 2) return;
  if (std::optional<Offer> oldest = pairing_.RemoveOldest(session.id)) {
    --session.chances;
    Refuse(*oldest, Reason::kTooManyOffers, kMadeRoomMs);
  }
}

bool Agent::Impl::OnWithdraw(Session& session, const Packet& packet) {
  protocol::Withdraw message;
  if (!protocol::Parse(packet.bytes.data(), packet.bytes.size(), packet.descriptors.size(), message)) return false;
  const OfferName name{session.id, message.offer_id};
  pairing_.Remove(name);
  if (brought_.erase(name) != 0) SendToPu(PuWithdraw{name});
  return true;
}

EndLabel Agent::Impl::LabelOf(const Offer& offer) const {
  EndLabel label{.local = offer.socket.local, .remote = offer.socket.remote};
  if (offer.name.session == kPuSession) {
    auto found = remote_offers_.find(offer.name.offer);
    return found == remote_offers_.end() ? label : found->second.label;
  }
  if (auto found = sessions_.find(offer.name.session); found != sessions_.end()) {
    label.pid = found->second.who.pid;
    label.command = found->second.who.command;
  }
  return label;
}

void Agent::Impl::Handle(std::vector<Outcome> outcomes) {
  for (Outcome& outcome : outcomes) {
    if (auto* pair = std::get_if<Pair>(&outcome)) {
      Join(*pair);
    } else {
      const Decline& decline = std::get<Decline>(outcome);
      Refuse(decline.offer, decline.reason);
    }
  }
}

void Agent::Impl::Refuse(const Offer& offer, Reason reason) {
  auto session = sessions_.find(offer.name.session);
  if (reason == Reason::kNoPeer && session != sessions_.end() && session->second.chances > 0) {
    --session->second.chances;
    return Refuse(offer, reason, kOnceMoreMs);
  }
  Refuse(offer, reason, RetryAfterMs(reason));
}

void Agent::Impl::Refuse(const Offer& offer, Reason reason, uint32_t retry_after_ms) {
  if (offer.name.session == kPuSession) {
    auto found = remote_offers_.find(offer.name.offer);
    if (found == remote_offers_.end()) return;
    const OfferName theirs = found->second.theirs;
    remote_numbers_.erase(theirs);
    remote_offers_.erase(found);
    SendToPu(PuDeclined{theirs, reason});
    return;
  }
  if (brought_.erase(offer.name) != 0) SendToPu(PuWithdraw{offer.name});
  ++counters_.declines[reason];
  TellStays("declined", LabelOf(offer), reason);
  auto found = sessions_.find(offer.name.session);
  if (found == sessions_.end()) return;
  ++found->second.declined;
  protocol::Declined declined = protocol::Make<protocol::Declined>();
  declined.offer_id = offer.name.offer;
  declined.reason = static_cast<uint32_t>(reason);
  declined.retry_after_ms = retry_after_ms;
  SendMessage(found->second, declined);
}

void Agent::Impl::TellStays(const char* what, const EndLabel& label, Reason reason, uint64_t channel) {
  nlohmann::json event = {
      {"event", what}, {"pid", label.pid}, {"command", label.command}, {"reason", protocol::ReasonText(reason)}};
  if (channel != 0) event["channel"] = channel;
  if (label.local.port != 0) {
    event["local"] = label.local.ToString();
    event["remote"] = label.remote.ToString();
  }
  recent_declines_.push_back(event);
  if (recent_declines_.size() > kRecentDeclines) recent_declines_.pop_front();
  Event(std::move(event));
}

void Agent::Impl::TellPaired(const Channel& channel) {
  Event({{"event", "paired"},
         {"channel", channel.name.id},
         {"by", channel.by_token ? "token" : "addresses"},
         {"command", {channel.ends[0].label.command, channel.ends[1].label.command}},
         {"pid", {channel.ends[0].label.pid, channel.ends[1].label.pid}},
         {"local", channel.ends[0].label.local.ToString()},
         {"remote", channel.ends[1].label.local.ToString()}});
}

void Agent::Impl::Join(const Pair& pair) {
  const Offer* offers[2] = {&pair.first, &pair.second};
  Channel channel{.name = {.id = next_channel_++, .epoch = epoch_}};
  while (channel.name.nonce == 0) {
    if (getrandom(&channel.name.nonce, sizeof channel.name.nonce, 0) != sizeof channel.name.nonce) continue;
  }
  channel.by_token = pair.first.socket.token != 0 && pair.first.socket.token == pair.second.socket.token;
  channel.bytes = layout::ChannelBytes(options_.ring_bytes);
  for (int side = 0; side < 2; ++side) {
    channel.ends[side] = {.label = LabelOf(*offers[side]),
                          .domain = offers[side]->domain,
                          .cookie = offers[side]->socket.cookie,
                          .inode = offers[side]->socket.inode};
  }
  const bool same = CreditKey(pair.first.domain) == CreditKey(pair.second.domain);
  bool paid = Charge(channel.ends[0], channel.bytes) && (same || Charge(channel.ends[1], channel.bytes));
  absl::StatusOr<ChannelParts> parts = absl::ResourceExhaustedError("no credit");
  if (paid) parts = MakeChannel(channel.name, options_.ring_bytes);
  if (!parts.ok()) {
    if (paid) spdlog::warn("no channel can be made, connections stay on TCP: {}", Message(parts.status()));
    for (ChannelEnd& end : channel.ends) {
      if (end.charged) credits_.GiveBack(CreditKey(end.domain), channel.bytes);
    }
    for (const Offer* offer : offers) Refuse(*offer, paid ? Reason::kAgentError : Reason::kExhausted);
    return;
  }
  channel.memory = std::move(parts->memory);
  ++counters_.pairs;
  if (channel.by_token) ++counters_.pairs_by_token;

  const ChannelKey key{channel.name.epoch, channel.name.id};
  Channel& kept = channels_.emplace(key, std::move(channel)).first->second;
  for (int side = 0; side < 2; ++side) {
    const OfferName& name = offers[side]->name;
    Bell& own = parts->bells[side];
    Bell& other = parts->bells[1 - side];
    if (name.session == kPuSession) {
      auto remote = remote_offers_.find(name.offer);
      if (remote == remote_offers_.end()) continue;  // cannot be: it waits here as long as it is known here
      PuPaired message{.name = remote->second.theirs,
                       .channel = kept.name,
                       .bytes = kept.bytes,
                       .side = static_cast<uint8_t>(side),
                       .label = kept.ends[1 - side].label,
                       .domain = kept.ends[1 - side].domain};
      message.memory.reset(fcntl(kept.memory.get(), F_DUPFD_CLOEXEC, 0));
      message.sleeper = std::move(own.sleeper);
      message.ringer.reset(fcntl(other.ringer.get(), F_DUPFD_CLOEXEC, 0));
      remote_numbers_.erase(remote->second.theirs);
      remote_offers_.erase(remote);
      kept.spans_pus = kept.ends[side].on_other_pu = SendToPu(std::move(message));
    } else if (auto session = sessions_.find(name.session); session != sessions_.end()) {
      kept.ends[side].holders.insert(name.session);
      session->second.channels.insert(key);
      if (brought_.erase(name) != 0) SendToPu(PuWithdraw{name});
      SendPaired(session->second, name.offer, kept, side, own.sleeper.get(), other.ringer.get());
    }
  }
  TellPaired(kept);
  ForgetIfDead(key);
}

}  // namespace heterok8s::heterosock::agent
