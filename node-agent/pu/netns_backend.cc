#include "node-agent/pu/netns_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "common/netlink/delete_link.h"
#include "common/netlink/libnl_netlink.h"

namespace heterok8s::pu {
namespace {

using netlink::Batch;
using netlink::Link;
using netlink::Netlink;
using netlink::SetLink;

constexpr auto kAbsent = absl::StatusCode::kNotFound;
constexpr int kMaxMtu = 65535;  // ETH_MAX_MTU

bool HasAltName(const Link& link, const std::string& name) {
  return std::find(link.altnames.begin(), link.altnames.end(), name) != link.altnames.end();
}

class NetnsBackend : public Backend {
 public:
  NetnsBackend(NetnsBackendOptions options, sys::NetnsRef root)
      : options_(std::move(options)), root_(std::move(root)) {}

  Capabilities caps() const override { return {.backend = "netns", .max_mtu = kMaxMtu, .shared_kernel = true}; }
  absl::StatusOr<LinkEnd> AcquireLink(const OwnerTag& tag, const LinkRequest& request) override;
  absl::StatusOr<LinkEnd> AcceptLink(const OwnerTag& tag, const LinkRequest& request) override;
  absl::Status ReleaseLink(const OwnerTag& tag, const sys::NetnsRef* netns) override;
  absl::StatusOr<std::vector<OwnerTag>> ListLinks() override;

 private:
  // An uplink of the same Pod carries the same tag; the link is told by its MAC or, once it is named, by its name. It
  // has no tag yet when it was born in another namespace than its maker's.
  bool IsLinkEnd(const Link& link, const OwnerTag& tag) const {
    bool has_mac = link.mac == LinkMac(tag, options_.side);
    if (link.alias.empty()) return has_mac;
    return link.alias == tag.ToAlias() && (has_mac || link.name == kLinkName || HasAltName(link, kLinkName));
  }
  static absl::Status CreatePair(Netlink& peer, const OwnerTag& tag, const netlink::VethEnd& mine);
  // This side's end in a Pod's namespace, whatever it is called there by now.
  absl::StatusOr<std::optional<Link>> FindInPod(Netlink& pod, const OwnerTag& tag) const;
  absl::StatusOr<sys::NetnsRef> OpenPeer() const;

  const NetnsBackendOptions options_;
  const sys::NetnsRef root_;
};

absl::StatusOr<sys::NetnsRef> NetnsBackend::OpenPeer() const {
  absl::StatusOr<sys::NetnsRef> peer = sys::NetnsRef::Open(options_.peer_netns);
  if (absl::IsNotFound(peer.status())) {
    return absl::UnavailableError(fmt::format("the DPU's network namespace is gone: {}", Message(peer.status())));
  }
  return peer;
}

absl::StatusOr<std::optional<Link>> NetnsBackend::FindInPod(Netlink& pod, const OwnerTag& tag) const {
  for (const std::string& name : {std::string(kLinkName), tag.ifname}) {
    HK_ASSIGN_OR_RETURN(std::optional<Link> link, FindIfThere(pod, name));
    if (link && IsLinkEnd(*link, tag)) return link;
  }
  return std::optional<Link>();
}

absl::Status NetnsBackend::CreatePair(Netlink& peer, const OwnerTag& tag, const netlink::VethEnd& mine) {
  const std::string mac = LinkMac(tag, Side::kDpu);
  HK_ASSIGN_OR_RETURN(std::optional<Link> uplink, FindIfThere(peer, InterfaceName(tag, 'u')));
  // The DPU may still be about to give it its alias; nobody else makes such names.
  if (uplink && (uplink->alias.empty() || uplink->alias == tag.ToAlias()) && uplink->peer_netns_id) {
    absl::Status made = peer.Do(netlink::AddVeth{
        .end = {.name = kLinkName, .mac = mac, .mtu = mine.mtu, .netns_id = uplink->peer_netns_id}, .peer = mine});
    // pod-d still has the link of an earlier sandbox: AcceptLink replaces it by what comes to the root namespace.
    if (!absl::IsAlreadyExists(made)) return made;
  }
  const std::string arrival = InterfaceName(tag, 'x');
  Batch batch;
  batch.Add(netlink::AddVeth{.end = {.name = arrival, .mac = mac, .mtu = mine.mtu}, .peer = mine});
  batch.Add(SetLink{.by_name = arrival, .alias = tag.ToAlias()});
  return peer.Apply(batch);
}

absl::StatusOr<LinkEnd> NetnsBackend::AcquireLink(const OwnerTag& tag, const LinkRequest& request) {
  if (options_.side != Side::kHost) return absl::FailedPreconditionError("only the host's PU makes links");
  const sys::NetnsRef& home = request.netns != nullptr ? *request.netns : root_;
  const std::string peer_name = InterfaceName(tag, 'x');
  const std::string name = request.ifname.empty() ? peer_name : request.ifname;
  const std::string alias = tag.ToAlias();
  HK_ASSIGN_OR_RETURN(sys::NetnsRef peer_netns, OpenPeer());
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> mine, netlink::OpenNetlinkIn(home));
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> peer, netlink::OpenNetlinkIn(peer_netns));

  HK_ASSIGN_OR_RETURN(std::optional<Link> end, FindIfThere(*mine, name));
  HK_ASSIGN_OR_RETURN(std::optional<Link> other, FindIfThere(*peer, peer_name));
  if (other && !other->alias.empty() && other->alias != alias) {
    return absl::AlreadyExistsError(fmt::format("'{}' belongs to '{}'", peer_name, other->alias));
  }
  bool joined = end && other && end->peer_index == other->index && other->peer_index == end->index;
  // Our tag alone is enough as well: a veth always has its other end, perhaps in pod-d by now.
  if (end && !joined && !IsLinkEnd(*end, tag)) {
    return absl::AlreadyExistsError(fmt::format("'{}' has an interface '{}' that is not ours", home.path(), name));
  }
  if (!end) {
    // Of an earlier sandbox of this Pod. Or half-made, when its first end went with that sandbox.
    if (other) HK_RETURN_IF_ERROR(peer->Do(netlink::DeleteLink{other->index}, kAbsent));
    HK_RETURN_IF_ERROR(CreatePair(
        *peer, tag, {.name = name, .mac = LinkMac(tag, Side::kHost), .mtu = request.mtu, .netns_fd = home.fd()}));
    HK_ASSIGN_OR_RETURN(end, FindIfThere(*mine, name));
    if (!end) return absl::AbortedError(fmt::format("link '{}' vanished while it was made", name));
  } else if (joined && other->alias != alias) {
    HK_RETURN_IF_ERROR(peer->Do(SetLink{.link = other->index, .alias = alias}));
  }

  Batch batch;
  SetLink set{.link = end->index};
  if (end->alias != alias) set.alias = alias;
  if (end->mtu != request.mtu) set.mtu = request.mtu;
  if (set.alias || set.mtu) batch.Add(set);
  if (request.netns != nullptr && end->name != kLinkName && !HasAltName(*end, kLinkName)) {
    batch.Add(netlink::AddAltName{end->index, kLinkName});
  }
  if (!batch.empty()) HK_RETURN_IF_ERROR(mine->Apply(batch));
  return LinkEnd{.ifname = end->name, .mac = end->mac, .mtu = request.mtu};
}

absl::StatusOr<LinkEnd> NetnsBackend::AcceptLink(const OwnerTag& tag, const LinkRequest& request) {
  if (options_.side != Side::kDpu) return absl::FailedPreconditionError("only the DPU's PU accepts links");
  const std::string arrival = InterfaceName(tag, 'x');
  const std::string name = request.ifname.empty() ? arrival : request.ifname;
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> root, netlink::OpenNetlinkIn(root_));
  HK_ASSIGN_OR_RETURN(std::optional<Link> arrived, FindIfThere(*root, arrival));
  if (arrived && arrived->alias != tag.ToAlias()) arrived.reset();
  auto missing = absl::NotFoundError(fmt::format("no link of '{}' has come from the host", tag.ToAlias()));
  if (request.netns == nullptr) {
    if (!arrived) return missing;
    Batch batch;
    if (name != arrived->name || arrived->mtu != request.mtu) {
      batch.Add(SetLink{.link = arrived->index, .name = name, .mtu = request.mtu});
      HK_RETURN_IF_ERROR(root->Apply(batch));
    }
    return LinkEnd{.ifname = name, .mac = arrived->mac, .mtu = request.mtu};
  }

  HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> pod, netlink::OpenNetlinkIn(*request.netns));
  HK_ASSIGN_OR_RETURN(std::optional<Link> end, FindIfThere(*pod, name));
  if (end && !IsLinkEnd(*end, tag)) {
    return absl::AlreadyExistsError(
        fmt::format("'{}' has an interface '{}' that is not ours", request.netns->path(), name));
  }
  if (!arrived) {
    if (!end) return missing;
    SetLink set{.link = end->index};
    if (end->alias.empty()) set.alias = tag.ToAlias();
    if (end->mtu != request.mtu) set.mtu = request.mtu;
    if (set.alias || set.mtu) HK_RETURN_IF_ERROR(pod->Do(set));
    return LinkEnd{.ifname = name, .mac = end->mac, .mtu = request.mtu};
  }
  // A link that comes while we have one replaces it: the host has made the Pod anew.
  if (end) HK_RETURN_IF_ERROR(pod->Do(netlink::DeleteLink{end->index}, kAbsent));
  HK_RETURN_IF_ERROR(
      root->Do(SetLink{.link = arrived->index, .name = name, .mtu = request.mtu, .netns_fd = request.netns->fd()}));
  return LinkEnd{.ifname = name, .mac = arrived->mac, .mtu = request.mtu};
}

absl::Status NetnsBackend::ReleaseLink(const OwnerTag& tag, const sys::NetnsRef* netns) {
  // Deleting one end deletes both, so the first that is found is enough.
  if (netns != nullptr) {
    HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> pod, netlink::OpenNetlinkIn(*netns));
    HK_ASSIGN_OR_RETURN(std::optional<Link> end, FindInPod(*pod, tag));
    if (end) {
      HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> requester, netlink::OpenNetlinkIn(*netns));
      return netlink::DeleteLinkSoon(std::move(requester), *pod, *end);
    }
  }
  std::vector<std::unique_ptr<Netlink>> roots;
  HK_ASSIGN_OR_RETURN(roots.emplace_back(), netlink::OpenNetlinkIn(root_));
  if (options_.side == Side::kHost) {
    // Half-made or not accepted yet: the other end is still where we put it. A DPU that is gone has nothing to keep.
    absl::StatusOr<sys::NetnsRef> peer = OpenPeer();
    if (peer.ok()) {
      HK_ASSIGN_OR_RETURN(roots.emplace_back(), netlink::OpenNetlinkIn(*peer));
    }
  }
  for (const std::unique_ptr<Netlink>& root : roots) {
    HK_ASSIGN_OR_RETURN(std::optional<Link> end, FindIfThere(*root, InterfaceName(tag, 'x')));
    if (end && (end->alias.empty() || end->alias == tag.ToAlias())) {
      return root->Do(netlink::DeleteLink{end->index}, kAbsent);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<OwnerTag>> NetnsBackend::ListLinks() {
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> root, netlink::OpenNetlinkIn(root_));
  HK_ASSIGN_OR_RETURN(std::vector<Link> links, root->Links());
  std::vector<OwnerTag> tags;
  for (const Link& link : links) {
    absl::StatusOr<OwnerTag> tag = OwnerTag::FromAlias(link.alias);
    if (tag.ok() && tag->instance == options_.instance && link.name == InterfaceName(*tag, 'x')) tags.push_back(*tag);
  }
  return tags;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> NewNetnsBackend(NetnsBackendOptions options) {
  if (options.side == Side::kHost && options.peer_netns.empty()) {
    return absl::InvalidArgumentError("the netns back end of the host needs peer_netns");
  }
  HK_ASSIGN_OR_RETURN(sys::NetnsRef root, sys::NetnsRef::Current());
  return std::unique_ptr<Backend>(std::make_unique<NetnsBackend>(std::move(options), std::move(root)));
}

}  // namespace heterok8s::pu
