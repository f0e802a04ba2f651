#include <fmt/format.h>
#include <linux/if_link.h>
#include <linux/ip.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sys/socket.h>

#include "common/netlink/encode.h"

namespace heterok8s::netlink {
namespace {

absl::Status CheckName(const std::string& name) {
  if (name.empty() || name.size() >= IFNAMSIZ) {
    return absl::InvalidArgumentError(fmt::format("'{}' is no interface name: 1 to {} characters", name, IFNAMSIZ - 1));
  }
  return absl::OkStatus();
}

absl::Status PutVethEnd(nl_msg* message, const VethEnd& end) {
  HK_RETURN_IF_ERROR(CheckName(end.name));
  nla_put_string(message, IFLA_IFNAME, end.name.c_str());
  if (!end.mac.empty()) HK_RETURN_IF_ERROR(PutMac(message, IFLA_ADDRESS, end.mac));
  if (end.mtu != 0) nla_put_u32(message, IFLA_MTU, end.mtu);
  if (end.netns_fd >= 0) nla_put_u32(message, IFLA_NET_NS_FD, end.netns_fd);
  // One queue each way is what a veth uses in any case. Unasked, the kernel makes one for each CPU and then takes the
  // others away again, each end with an RCU grace period under RTNL (veth_init_queues() in drivers/net/veth.c,
  // netif_set_real_num_tx_queues() in net/core/dev.c): a third of the time that a pair takes on two CPUs.
  nla_put_u32(message, IFLA_NUM_TX_QUEUES, 1);
  nla_put_u32(message, IFLA_NUM_RX_QUEUES, 1);
  return absl::OkStatus();
}

void PutInet4Conf(nl_msg* message, const Inet4Conf& conf) {
  nlattr* inet = nla_nest_start(message, AF_INET);
  nlattr* values = nla_nest_start(message, IFLA_INET_CONF);
  auto put = [&](int id, const std::optional<int>& value) {
    if (value) nla_put_u32(message, id, *value);
  };
  put(IPV4_DEVCONF_FORWARDING, conf.forwarding);
  put(IPV4_DEVCONF_RP_FILTER, conf.rp_filter);
  put(IPV4_DEVCONF_ACCEPT_LOCAL, conf.accept_local);
  put(IPV4_DEVCONF_SEND_REDIRECTS, conf.send_redirects);
  put(IPV4_DEVCONF_ARP_IGNORE, conf.arp_ignore);
  put(IPV4_DEVCONF_ARP_ANNOUNCE, conf.arp_announce);
  put(IPV4_DEVCONF_ROUTE_LOCALNET, conf.route_localnet);
  nla_nest_end(message, values);
  nla_nest_end(message, inet);
}

void PutNoLinkLocal(nl_msg* message) {
  nlattr* inet6 = nla_nest_start(message, AF_INET6);
  nla_put_u8(message, IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
  nla_nest_end(message, inet6);
}

}  // namespace

absl::Status EncodeLink(const AddVeth& change, std::vector<Request>& out) {
  if (change.peer.netns_id)
    return absl::InvalidArgumentError("only the first end can be made in a namespace by its id");
  nl_msg* message = NewRequest(out, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, ifinfomsg{});
  HK_RETURN_IF_ERROR(PutVethEnd(message, change.end));
  if (change.end.netns_id) nla_put_s32(message, IFLA_TARGET_NETNSID, *change.end.netns_id);
  nlattr* info = nla_nest_start(message, IFLA_LINKINFO);
  nla_put_string(message, IFLA_INFO_KIND, "veth");
  nlattr* data = nla_nest_start(message, IFLA_INFO_DATA);
  nlattr* peer = nla_nest_start(message, VETH_INFO_PEER);
  ifinfomsg peer_header{};
  nlmsg_append(message, &peer_header, sizeof peer_header, NLMSG_ALIGNTO);
  HK_RETURN_IF_ERROR(PutVethEnd(message, change.peer));
  nla_nest_end(message, peer);
  nla_nest_end(message, data);
  nla_nest_end(message, info);
  return absl::OkStatus();
}

absl::Status EncodeLink(const AddIfb& change, std::vector<Request>& out) {
  HK_RETURN_IF_ERROR(CheckName(change.name));
  nl_msg* message = NewRequest(out, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, ifinfomsg{});
  nla_put_string(message, IFLA_IFNAME, change.name.c_str());
  nlattr* info = nla_nest_start(message, IFLA_LINKINFO);
  nla_put_string(message, IFLA_INFO_KIND, "ifb");
  nla_nest_end(message, info);
  return absl::OkStatus();
}

absl::Status EncodeLink(const DeleteLink& change, std::vector<Request>& out) {
  // The kernel reads index 0 without a name as "no selector" and answers EINVAL; to us such a link does not exist.
  if (change.link <= 0) return absl::NotFoundError("no link has index 0");
  ifinfomsg header{};
  header.ifi_index = change.link;
  NewRequest(out, RTM_DELLINK, 0, header);
  return absl::OkStatus();
}

absl::Status EncodeLink(const SetLink& change, std::vector<Request>& out) {
  bool has_conf = change.inet4 || change.no_link_local;
  if (has_conf && change.netns_fd >= 0) {
    return absl::InvalidArgumentError("a link that moves loses its per-family settings");
  }
  if (change.link == 0) {
    if (change.name) return absl::InvalidArgumentError("a link that is found by name cannot be renamed");
    HK_RETURN_IF_ERROR(CheckName(change.by_name));
  }
  auto select = [&](ifinfomsg header) {
    header.ifi_index = change.link;
    nl_msg* message = NewRequest(out, RTM_SETLINK, 0, header);
    if (change.link == 0) nla_put_string(message, IFLA_IFNAME, change.by_name.c_str());
    return message;
  };
  if (has_conf) {
    // A request of its own: within one request the kernel sets a link up before it looks at these, and a link that is
    // up has its link-local address already.
    nl_msg* message = select({});
    nlattr* families = nla_nest_start(message, IFLA_AF_SPEC);
    if (change.inet4) PutInet4Conf(message, *change.inet4);
    if (change.no_link_local) PutNoLinkLocal(message);
    nla_nest_end(message, families);
  }
  if (!change.up && !change.name && !change.mac && !change.mtu && !change.alias && change.netns_fd < 0) {
    return absl::OkStatus();
  }

  ifinfomsg header{};
  if (change.up) {
    header.ifi_change = IFF_UP;
    header.ifi_flags = *change.up ? IFF_UP : 0;
  }
  nl_msg* message = select(header);
  if (change.netns_fd >= 0) nla_put_u32(message, IFLA_NET_NS_FD, change.netns_fd);
  if (change.name) {
    HK_RETURN_IF_ERROR(CheckName(*change.name));
    nla_put_string(message, IFLA_IFNAME, change.name->c_str());
  }
  if (change.mac) HK_RETURN_IF_ERROR(PutMac(message, IFLA_ADDRESS, *change.mac));
  if (change.mtu) nla_put_u32(message, IFLA_MTU, *change.mtu);
  // Without the terminating zero, as iproute2 does: the kernel counts it into the length.
  if (change.alias) nla_put(message, IFLA_IFALIAS, static_cast<int>(change.alias->size()), change.alias->data());
  return absl::OkStatus();
}

absl::Status EncodeLink(const AddAltName& change, std::vector<Request>& out) {
  ifinfomsg header{};
  header.ifi_index = change.link;
  nl_msg* message = NewRequest(out, RTM_NEWLINKPROP, NLM_F_CREATE | NLM_F_EXCL | NLM_F_APPEND, header);
  nlattr* properties = nla_nest_start(message, IFLA_PROP_LIST);
  nla_put_string(message, IFLA_ALT_IFNAME, change.name.c_str());
  nla_nest_end(message, properties);
  return absl::OkStatus();
}

}  // namespace heterok8s::netlink
