#include "heterosock/agent/pairing.h"

#include <algorithm>

namespace heterok8s::heterosock::agent {
namespace {

template <typename Multimap, typename Key>
void EraseOne(Multimap& map, const Key& key, const OfferName& name) {
  auto [from, to] = map.equal_range(key);
  for (auto at = from; at != to; ++at) {
    if (at->second == name) {
      map.erase(at);
      return;
    }
  }
}

}  // namespace

bool IsPlausible(const Traffic& earlier, const Traffic& later) {
  // What the earlier look found received had been sent by then, and what it found acknowledged had been received. Since
  // then the later end's counters only grew. One more for the SYN that one side counts, one for a FIN.
  constexpr uint64_t kSynAndFin = 2;
  return earlier.bytes_received <= later.bytes_sent + kSynAndFin &&
         earlier.bytes_acked <= later.bytes_received + kSynAndFin && earlier.send_scale == later.receive_scale &&
         earlier.receive_scale == later.send_scale;
}

namespace {

bool Fit(const Offer& waiting, const Offer& added) {
  const Traffic &first = waiting.socket.traffic, &second = added.socket.traffic;
  return IsPlausible(first, second) || (added.brought && IsPlausible(second, first));
}

// Loopback and link-local: every namespace has these.
bool IsEverywhere(const IpAddress& address) {
  const auto& b = address.bytes;
  const bool link_local =
      address.family == Family::kV4 ? b[0] == 169 && b[1] == 254 : b[0] == 0xfe && (b[1] & 0xc0) == 0x80;
  return link_local || address.is_loopback();
}

// Whether mirrored addresses of two namespaces can be one connection, for who believes them.
bool MayMirror(const SocketIdentity& a, const SocketIdentity& b) {
  const auto accepted_with_token = [](const SocketIdentity& s) { return s.token != 0 && !s.connected; };
  return !accepted_with_token(a) && !accepted_with_token(b) && !IsEverywhere(a.local.address) &&
         !IsEverywhere(a.remote.address);
}

}  // namespace

std::vector<OfferName> Pairing::Matches(const Offer& offer) const {
  std::vector<OfferName> matches;
  if (offer.socket.token != 0) {
    auto [from, to] = by_token_.equal_range(offer.socket.token);
    for (auto at = from; at != to; ++at) {
      if (waiting_.at(at->second).socket.connected != offer.socket.connected) matches.push_back(at->second);
    }
    if (!matches.empty()) return matches;
  }
  auto [from, to] = by_tuple_.equal_range({offer.socket.remote, offer.socket.local});
  for (auto at = from; at != to; ++at) {
    const SocketIdentity& other = waiting_.at(at->second).socket;
    const bool both_have_tokens = other.token != 0 && offer.socket.token != 0;
    if (both_have_tokens || other.cookie == offer.socket.cookie) continue;
    // In one namespace a tuple is one socket; that match is as sure as the kernel.
    if (other.netns_cookie == offer.socket.netns_cookie) return {at->second};
    if (believe_addresses_ && MayMirror(other, offer.socket)) matches.push_back(at->second);
  }
  return matches;
}

std::vector<Outcome> Pairing::Add(Offer offer) {
  std::vector<Outcome> outcomes;
  const auto same_tuple = by_tuple_.equal_range({offer.socket.local, offer.socket.remote});
  for (auto at = same_tuple.first; at != same_tuple.second; ++at) {
    const SocketIdentity& other = waiting_.at(at->second).socket;
    if (other.cookie == offer.socket.cookie) {
      outcomes.push_back(Decline{std::move(offer), Reason::kDuplicate});
      return outcomes;
    }
  }
  if (waiting_.contains(offer.name)) {
    outcomes.push_back(Decline{std::move(offer), Reason::kDuplicate});
    return outcomes;
  }

  const std::vector<OfferName> matches = Matches(offer);
  if (matches.size() == 1) {
    Offer other = Take(waiting_.find(matches.front()));
    Reason reason = Reason::kNone;
    if (offer.layout_version != other.layout_version) reason = Reason::kVersion;
    if (!Fit(other, offer)) reason = Reason::kImplausible;
    if (!allows_(other.domain, offer.domain)) reason = Reason::kPolicy;
    if (reason == Reason::kNone) {
      const bool swap = offer.socket.token != 0 && offer.socket.connected;
      outcomes.push_back(swap ? Pair{std::move(offer), std::move(other)} : Pair{std::move(other), std::move(offer)});
    } else {
      outcomes.push_back(Decline{std::move(other), reason});
      outcomes.push_back(Decline{std::move(offer), reason});
    }
    return outcomes;
  }
  if (matches.size() > 1) {
    for (const OfferName& name : matches) outcomes.push_back(Decline{Take(waiting_.find(name)), Reason::kAmbiguous});
    outcomes.push_back(Decline{std::move(offer), Reason::kAmbiguous});
    return outcomes;
  }

  if (offer.socket.token != 0) by_token_.emplace(offer.socket.token, offer.name);
  by_tuple_.emplace(std::pair(offer.socket.local, offer.socket.remote), offer.name);
  by_deadline_.emplace(offer.deadline, offer.name);
  waiting_.emplace(offer.name, std::move(offer));
  return outcomes;
}

Offer Pairing::Take(ByName::iterator at) {
  Offer offer = std::move(at->second);
  waiting_.erase(at);
  if (offer.socket.token != 0) EraseOne(by_token_, offer.socket.token, offer.name);
  EraseOne(by_tuple_, std::pair(offer.socket.local, offer.socket.remote), offer.name);
  EraseOne(by_deadline_, offer.deadline, offer.name);
  return offer;
}

std::optional<Offer> Pairing::Remove(const OfferName& name) {
  auto found = waiting_.find(name);
  if (found == waiting_.end()) return std::nullopt;
  return Take(found);
}

std::optional<Offer> Pairing::RemoveOldest(uint64_t session) {
  auto oldest = waiting_.end();
  for (auto at = waiting_.lower_bound(OfferName{session, 0}); at != waiting_.end() && at->first.session == session;
       ++at) {
    if (oldest == waiting_.end() || at->second.deadline < oldest->second.deadline) oldest = at;
  }
  if (oldest == waiting_.end()) return std::nullopt;
  return Take(oldest);
}

std::vector<Offer> Pairing::RemoveSession(uint64_t session) {
  std::vector<Offer> removed;
  while (true) {
    auto at = waiting_.lower_bound(OfferName{session, 0});
    if (at == waiting_.end() || at->first.session != session) return removed;
    removed.push_back(Take(at));
  }
}

std::vector<Outcome> Pairing::Expire(Time now) {
  std::vector<Outcome> outcomes;
  while (!by_deadline_.empty() && by_deadline_.begin()->first <= now) {
    outcomes.push_back(Decline{Take(waiting_.find(by_deadline_.begin()->second)), Reason::kNoPeer});
  }
  return outcomes;
}

std::optional<Time> Pairing::NextDeadline() const {
  if (by_deadline_.empty()) return std::nullopt;
  return by_deadline_.begin()->first;
}

size_t Pairing::waiting_of(uint64_t session) const {
  return std::distance(waiting_.lower_bound(OfferName{session, 0}), waiting_.lower_bound(OfferName{session + 1, 0}));
}

}  // namespace heterok8s::heterosock::agent
