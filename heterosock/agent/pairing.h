// Which two offers are the two ends of one connection? Pure logic: no kernel, no clock of its own.
//
// An offer waits until its other end is offered too, or its deadline comes. Two offers are the same connection when
//   - both carry the token that one SYN brought to both ends, and just one of them sent it (NAT in between is no
//   matter);
//   - or at least one has no token, they are of one network namespace, and their addresses mirror each other.
// Addresses of another namespace prove nothing: whoever may make a namespace gives it any address. They count only
// where the administrator says so, and even then not those that every namespace has, not for an end that was accepted
// with a token (the one that sent it has it as well), and not when a third offer claims the same. An offer with a token
// is never matched by address with one that has another token: behind NAT that is another connection.
//
// What the kernel counted must fit, too: nobody received what the other never sent. Which end was looked at
// first is known of this PU's own looks; an offer that was brought may have been looked at before or after the one that
// waits here, so it fits when it does in one order.
//
// Threading: thread-compatible. Errors: none; a declined offer is an outcome like any other.
//
//   for (const Outcome& outcome : pairing.Add(offer, now)) Answer(outcome);
//   for (const Outcome& outcome : pairing.Expire(now)) Answer(outcome);
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "heterosock/agent/socket_identity.h"
#include "heterosock/protocol/reasons.h"

namespace heterok8s::heterosock::agent {

using Time = std::chrono::steady_clock::time_point;
using protocol::Reason;

// Who may share memory with whom is decided between domains; credits belong to them.
struct Domain {
  uint64_t netns_cookie = 0;
  std::string pod_uid;  // empty outside of Pods
  std::string cgroup;   // for the policy's rules
};

struct OfferName {
  uint64_t session = 0;  // the connection to the library, or to the other PU, that brought it
  uint64_t offer = 0;    // the library's number
  auto operator<=>(const OfferName&) const = default;
};

struct Offer {
  OfferName name;
  SocketIdentity socket;
  Domain domain;
  uint32_t layout_version = 0;
  Time deadline;
  bool brought = false;  // by the other PU's agent, which looked at the socket some time before
};

struct Pair {
  Offer first, second;  // `first` was offered earlier, unless the second is known to have connected to it
};
struct Decline {
  Offer offer;
  Reason reason;
};
using Outcome = std::variant<Pair, Decline>;

class Pairing {
 public:
  using Allows = std::function<bool(const Domain&, const Domain&)>;
  // `believe_addresses`: those of two namespaces, too.
  explicit Pairing(Allows allows, bool believe_addresses = false)
      : allows_(std::move(allows)), believe_addresses_(believe_addresses) {}

  std::vector<Outcome> Add(Offer offer);
  // The offer, if it was still waiting.
  std::optional<Offer> Remove(const OfferName& name);
  // The one whose deadline comes first.
  std::optional<Offer> RemoveOldest(uint64_t session);
  std::vector<Offer> RemoveSession(uint64_t session);
  std::vector<Outcome> Expire(Time now);
  std::optional<Time> NextDeadline() const;
  bool Waits(const OfferName& name) const { return waiting_.contains(name); }
  size_t waiting() const { return waiting_.size(); }
  size_t waiting_of(uint64_t session) const;

 private:
  using ByName = std::map<OfferName, Offer>;
  std::vector<OfferName> Matches(const Offer& offer) const;
  Offer Take(ByName::iterator at);

  const Allows allows_;
  const bool believe_addresses_;
  ByName waiting_;
  std::multimap<uint64_t, OfferName> by_token_;
  std::multimap<std::pair<Endpoint, Endpoint>, OfferName> by_tuple_;  // local, remote
  std::multimap<Time, OfferName> by_deadline_;
};

// False when no connection can have these two ends; `earlier` was looked at first.
bool IsPlausible(const Traffic& earlier, const Traffic& later);

}  // namespace heterok8s::heterosock::agent
