// A PuLink over a SOCK_SEQPACKET Unix socket: JSON for what is said, SCM_RIGHTS for descriptors. The other side is
// root's own agent; what it says is checked for form, not distrusted. An upgrade costs two packets of half a kilobyte
// here.
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <deque>
#include <nlohmann/json.hpp>

#include "common/json/whole.h"
#include "heterosock/agent/packet.h"
#include "heterosock/agent/pu_link.h"

namespace heterok8s::heterosock::agent {
namespace {

using nlohmann::json;
constexpr size_t kMaxBytes = 16384;
// Of these messages. A newer agent may say more, in members or in messages that an older one passes over; what an older
// one must not pass over needs another version.
constexpr int kVersion = 1;
// Messages that are not known, in one call: an agent that says nothing else has no more of our time than others have.
constexpr int kPassedOver = 16;
// Its socket takes 150 offers. An agent that is off its processor for a moment while a pool of connections is made has
// more to read; one that leaves this many unread, about 50 MB, does not come back.
constexpr size_t kMaxKept = 65536;

// A channel's descriptors are this process's until they are sent; the most of them have other uses.
size_t MostKeptDescriptors() {
  rlimit files{};
  return getrlimit(RLIMIT_NOFILE, &files) == 0 ? files.rlim_cur / 4 : 0;
}

json ToJson(const Endpoint& end) { return {{"a", end.address.ToString()}, {"p", end.port}}; }
Endpoint EndpointOf(const json& j) {
  absl::StatusOr<IpAddress> address = IpAddress::Parse(j.at("a").get<std::string>());
  return {address.value_or(IpAddress{}), WholeAt<uint16_t>(j, "p")};
}
json ToJson(const EndLabel& label) {
  return {{"pid", label.pid}, {"cmd", label.command}, {"l", ToJson(label.local)}, {"r", ToJson(label.remote)}};
}
EndLabel LabelOf(const json& j) {
  return {WholeAt<pid_t>(j, "pid"), j.at("cmd").get<std::string>(), EndpointOf(j.at("l")), EndpointOf(j.at("r"))};
}
json ToJson(const OfferName& name) { return {{"s", name.session}, {"o", name.offer}}; }
OfferName NameOf(const json& j) { return {WholeAt<uint64_t>(j, "s"), WholeAt<uint64_t>(j, "o")}; }

json ToJson(const Domain& domain) { return {domain.netns_cookie, domain.pod_uid, domain.cgroup}; }
// Of the member "domain".
Domain DomainOf(const json& j) {
  return {WholeAt<uint64_t>(j, "domain", 0), j.at("domain").at(1).get<std::string>(),
          j.at("domain").at(2).get<std::string>()};
}

json ToJson(const Offer& offer) {
  const SocketIdentity& s = offer.socket;
  return {{"name", ToJson(offer.name)},
          {"cookie", s.cookie},
          {"netns", s.netns_cookie},
          {"l", ToJson(s.local)},
          {"r", ToJson(s.remote)},
          {"token", s.token},
          {"connected", s.connected},
          {"acked", s.traffic.bytes_acked},
          {"sent", s.traffic.bytes_sent},
          {"received", s.traffic.bytes_received},
          {"scales", {s.traffic.send_scale, s.traffic.receive_scale}},
          {"domain", ToJson(offer.domain)},
          {"layout", offer.layout_version}};
}
Offer OfferOf(const json& j) {
  Offer offer;
  offer.name = NameOf(j.at("name"));
  SocketIdentity& s = offer.socket;
  s.cookie = WholeAt<uint64_t>(j, "cookie");
  s.netns_cookie = WholeAt<uint64_t>(j, "netns");
  s.local = EndpointOf(j.at("l"));
  s.remote = EndpointOf(j.at("r"));
  s.token = WholeAt<uint64_t>(j, "token");
  s.connected = j.at("connected").get<bool>();
  s.traffic = {WholeAt<uint64_t>(j, "acked"), WholeAt<uint64_t>(j, "sent"), WholeAt<uint64_t>(j, "received"),
               WholeAt<uint8_t>(j, "scales", 0), WholeAt<uint8_t>(j, "scales", 1)};
  offer.domain = DomainOf(j);
  offer.layout_version = WholeAt<uint32_t>(j, "layout");
  return offer;
}

json Encode(const PuOffer& m) { return {{"t", "offer"}, {"offer", ToJson(m.offer)}, {"label", ToJson(m.label)}}; }
json Encode(const PuWithdraw& m) { return {{"t", "withdraw"}, {"name", ToJson(m.name)}}; }
json Encode(const PuPaired& m) {
  return {{"t", "paired"},
          {"name", ToJson(m.name)},
          {"channel", {m.channel.id, m.channel.epoch, m.channel.nonce}},
          {"bytes", m.bytes},
          {"side", m.side},
          {"label", ToJson(m.label)},
          {"domain", ToJson(m.domain)}};
}
json Encode(const PuDeclined& m) {
  return {{"t", "declined"}, {"name", ToJson(m.name)}, {"reason", static_cast<uint32_t>(m.reason)}};
}
json Encode(const PuReleased& m) {
  return {{"t", "released"}, {"channel", {m.channel_id, m.epoch}}, {"reason", static_cast<uint32_t>(m.reason)}};
}
json Encode(const PuFence& m) {
  return {{"t", "fence"}, {"channel", {m.channel_id, m.epoch}}, {"reason", static_cast<uint32_t>(m.reason)}};
}

// A newer agent may have reasons that we do not know: any number is one.
Reason ReasonOf(const json& j) { return static_cast<Reason>(WholeAt<uint32_t>(j, "reason")); }

// Of a type that we do not know: nullopt. Throws std::exception.
std::optional<PuMessage> Decode(const json& j, std::vector<sys::UniqueFd>& descriptors) {
  const std::string type = j.at("t").get<std::string>();
  if (type == "offer") return PuOffer{OfferOf(j.at("offer")), LabelOf(j.at("label"))};
  if (type == "withdraw") return PuWithdraw{NameOf(j.at("name"))};
  if (type == "declined") return PuDeclined{NameOf(j.at("name")), ReasonOf(j)};
  if (type == "paired") {
    PuPaired m{.name = NameOf(j.at("name")),
               .channel = {WholeAt<uint64_t>(j, "channel", 0), WholeAt<uint64_t>(j, "channel", 1),
                           WholeAt<uint64_t>(j, "channel", 2)},
               .bytes = WholeAt<uint64_t>(j, "bytes"),
               .side = WholeAt<uint8_t>(j, "side"),
               .label = LabelOf(j.at("label"))};
    if (j.contains("domain")) m.domain = DomainOf(j);  // an older agent does not say it
    if (descriptors.size() == 3) {
      m.memory = std::move(descriptors[0]);
      m.sleeper = std::move(descriptors[1]);
      m.ringer = std::move(descriptors[2]);
    }
    return m;
  }
  if (type != "released" && type != "fence") return std::nullopt;
  const auto id = WholeAt<uint64_t>(j, "channel", 0), epoch = WholeAt<uint64_t>(j, "channel", 1);
  const Reason reason = ReasonOf(j);
  if (type == "released") return PuReleased{epoch, id, reason};
  return PuFence{epoch, id, reason};
}

class UnixPuLink final : public PuLink {
 public:
  UnixPuLink(sys::UniqueFd fd, std::string description) : fd_(std::move(fd)), description_(std::move(description)) {}

  int fd() const override { return fd_.get(); }
  std::string Description() const override { return description_; }

  absl::Status Send(PuMessage message) override {
    json j = std::visit([](const auto& m) { return Encode(m); }, message);
    j["v"] = kVersion;
    Kept packet{.bytes = j.dump(-1, ' ', false, json::error_handler_t::replace)};
    if (auto* paired = std::get_if<PuPaired>(&message)) {
      for (sys::UniqueFd* fd : {&paired->memory, &paired->sleeper, &paired->ringer})
        packet.descriptors.push_back(std::move(*fd));
    }
    if (kept_.size() >= kMaxKept || kept_descriptors_ + packet.descriptors.size() > MostKeptDescriptors()) {
      return absl::ResourceExhaustedError("the other agent does not read");
    }
    kept_descriptors_ += packet.descriptors.size();
    kept_.push_back(std::move(packet));
    return kept_.size() == 1 ? Flush() : absl::OkStatus();
  }

  Sent Backlog() const override { return kept_.empty() ? Sent::kSent : last_; }

  absl::Status Flush() override {
    while (!kept_.empty()) {
      std::vector<int> descriptors;
      for (const sys::UniqueFd& fd : kept_.front().descriptors) descriptors.push_back(fd.get());
      last_ = SendPacket(fd_.get(), kept_.front().bytes, descriptors);
      if (last_ == Sent::kGone) return absl::UnavailableError("the other agent is gone");
      if (last_ != Sent::kSent) break;
      kept_descriptors_ -= descriptors.size();
      kept_.pop_front();
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::optional<PuMessage>> Receive() override {
    for (int i = 0; i < kPassedOver; ++i) {
      Packet packet;
      switch (ReceivePacket(fd_.get(), packet, kMaxBytes, 3)) {
        case Received::kNothing:
          return std::optional<PuMessage>();
        case Received::kGone:
          return absl::UnavailableError("the other agent closed the link");
        case Received::kBroken:
          return absl::InvalidArgumentError("the other agent sent a packet that is too long");
        case Received::kStarved:
          return absl::ResourceExhaustedError("no descriptors are left for what the other agent sends");
        case Received::kPacket:
          break;
      }
      try {
        const json j = json::parse(packet.bytes);
        if (j.at("v") != kVersion) return absl::InvalidArgumentError("the other agent has another version");
        std::optional<PuMessage> message = Decode(j, packet.descriptors);
        if (!message) continue;
        if (auto* paired = std::get_if<PuPaired>(&*message); paired != nullptr && !paired->ringer.valid()) {
          return absl::InvalidArgumentError("the other agent sent a channel without descriptors");
        }
        return message;
      } catch (const std::exception& error) {
        return absl::InvalidArgumentError(fmt::format("the other agent sent what is no message: {}", error.what()));
      }
    }
    return std::optional<PuMessage>();
  }

 private:
  struct Kept {
    std::string bytes;
    std::vector<sys::UniqueFd> descriptors;
  };
  const sys::UniqueFd fd_;
  const std::string description_;
  std::deque<Kept> kept_;  // not sent yet
  size_t kept_descriptors_ = 0;
  Sent last_ = Sent::kSent;  // what came of the first of them
};

}  // namespace

absl::StatusOr<std::unique_ptr<PuLink>> ConnectUnixPuLink(const std::string& path) {
  HK_ASSIGN_OR_RETURN(sys::UniqueFd fd, ConnectUnix(path, SOCK_SEQPACKET));
  return AcceptUnixPuLink(std::move(fd), path);
}

absl::StatusOr<std::unique_ptr<PuLink>> AcceptUnixPuLink(sys::UniqueFd connection, const std::string& path) {
  ucred peer{};
  socklen_t length = sizeof peer;
  if (getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
    return ErrnoToStatus(errno, "SO_PEERCRED");
  }
  if (peer.uid != 0 && peer.uid != geteuid()) {
    return absl::PermissionDeniedError(fmt::format("the process at '{}' is user {}'s", path, peer.uid));
  }
  return std::unique_ptr<PuLink>(std::make_unique<UnixPuLink>(std::move(connection), path));
}

}  // namespace heterok8s::heterosock::agent
