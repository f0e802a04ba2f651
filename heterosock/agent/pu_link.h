// The way to the agent of the other PU: what two agents must tell each other to join the ends of one connection.
//
// One agent brings its waiting offers to the other (the one that connected to the one that listens), which matches them
// with its own and says what came of it. Everything else concerns channels that exist.
//
//   PuOffer / PuWithdraw     connecting -> listening   an offer waits here; it waits no more
//   PuPaired / PuDeclined    listening -> connecting   what came of it; a channel comes as descriptors
//   PuReleased / PuFence     both ways                 an end is over; please go back to TCP
//
// An implementation carries PuMessages in order and keeps their descriptors usable. The Unix one is for PUs that share
// a kernel (the lab); PUs with kernels of their own need one that exports memory and rings bells in their hardware's
// way. Threading: thread-compatible. Ownership: a received message owns its descriptors. Errors: any error ends the
// link.
//
//   HK_ASSIGN_OR_RETURN(std::unique_ptr<PuLink> link, ConnectUnixPuLink(path));
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/status/status.h"
#include "common/sys/unique_fd.h"
#include "heterosock/agent/channel_memory.h"
#include "heterosock/agent/packet.h"
#include "heterosock/agent/pairing.h"

namespace heterok8s::heterosock::agent {

// What people see of an end.
struct EndLabel {
  pid_t pid = 0;
  std::string command;
  Endpoint local, remote;
};

struct PuOffer {
  Offer offer;
  EndLabel label;
};
struct PuWithdraw {
  OfferName name;
};
struct PuPaired {
  OfferName name;
  ChannelName channel;
  uint64_t bytes = 0;
  uint8_t side = 0;  // of the end that offered
  EndLabel label;    // of the other
  Domain domain;     // of the other, for the policy of the agent that brought the offer
  // In this order; the sleeper and the ringer are those of the offering side's Paired.
  sys::UniqueFd memory, sleeper, ringer;
};
struct PuDeclined {
  OfferName name;
  Reason reason = Reason::kNone;
};
struct PuReleased {
  uint64_t epoch = 0, channel_id = 0;
  Reason reason = Reason::kNone;
};
struct PuFence {
  uint64_t epoch = 0, channel_id = 0;
  Reason reason = Reason::kNone;
};
using PuMessage = std::variant<PuOffer, PuWithdraw, PuPaired, PuDeclined, PuReleased, PuFence>;

// What an offer says of namespaces (cookies) is of one kernel: a link between two kernels must make them differ, or two
// namespaces would be one.
class PuLink {
 public:
  virtual ~PuLink() = default;
  virtual int fd() const = 0;  // readable when Receive() has something
  // Never waits: what the other agent does not read yet is kept. An error: it is gone, or reads nothing for too long.
  virtual absl::Status Send(PuMessage message) = 0;
  // kSent: nothing is kept. Else it is time for Flush() when fd() is writable (kFull), or in a moment (kLater).
  virtual Sent Backlog() const = 0;
  virtual absl::Status Flush() = 0;
  // Nothing that we know for now: nullopt; there may be more, and fd() is readable then. The link is over: an error.
  virtual absl::StatusOr<std::optional<PuMessage>> Receive() = 0;
  virtual std::string Description() const = 0;
};

absl::StatusOr<std::unique_ptr<PuLink>> ConnectUnixPuLink(const std::string& path);
// Over a connection that was accepted; kPermissionDenied when it is not another process of root's or of this user's.
absl::StatusOr<std::unique_ptr<PuLink>> AcceptUnixPuLink(sys::UniqueFd connection, const std::string& path);

}  // namespace heterok8s::heterosock::agent
