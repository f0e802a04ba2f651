#include "common/netfilter/conntrack.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "common/netfilter/nfnetlink.h"

namespace heterok8s::netfilter {
namespace {

constexpr uint16_t kConntrack = NFNL_SUBSYS_CTNETLINK << 8;
// Which parts of CTA_TUPLE_ORIG a dump is filtered by (net/netfilter/nf_internals.h; kernel >= 5.8). Older kernels
// ignore the filter, so every answer is compared here as well.
constexpr uint32_t kFilterProtocol = 1u << 3, kFilterDestinationPort = 1u << 5;

struct Flow {
  std::string tuple;             // payload of CTA_TUPLE_ORIG, as the kernel sent it
  std::optional<uint16_t> zone;  // network order
  uint8_t protocol = 0;
  uint16_t port = 0;
  IpAddress destination;
};

uint16_t ReadPort(std::string_view value) {
  uint16_t port = 0;
  if (value.size() >= sizeof port) std::memcpy(&port, value.data(), sizeof port);
  return port;
}

Flow ParseFlow(std::string_view attributes) {
  Flow flow;
  EachAttribute(attributes, [&](uint16_t type, std::string_view value) {
    if (type == CTA_ZONE) flow.zone = ReadPort(value);
    if (type != CTA_TUPLE_ORIG) return;
    flow.tuple = value;
    EachAttribute(value, [&](uint16_t part, std::string_view fields) {
      EachAttribute(fields, [&](uint16_t field, std::string_view data) {
        if (part == CTA_TUPLE_PROTO && field == CTA_PROTO_NUM && !data.empty()) {
          flow.protocol = static_cast<uint8_t>(data[0]);
        } else if (part == CTA_TUPLE_PROTO && field == CTA_PROTO_DST_PORT) {
          flow.port = ntohs(ReadPort(data));
        } else if (part == CTA_TUPLE_IP && (field == CTA_IP_V4_DST || field == CTA_IP_V6_DST)) {
          flow.destination.family = field == CTA_IP_V4_DST ? Family::kV4 : Family::kV6;
          std::memcpy(flow.destination.bytes.data(), data.data(), std::min(data.size(), flow.destination.size()));
        }
      });
    });
  });
  return flow;
}

absl::StatusOr<std::vector<Flow>> FindFlows(NfSocket& socket, const FlowFilter& filter, uint8_t family) {
  NfMessage dump(kConntrack | IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP, family);
  size_t tuple = dump.Open(CTA_TUPLE_ORIG);
  size_t proto = dump.Open(CTA_TUPLE_PROTO);
  auto number = static_cast<uint8_t>(filter.protocol);
  uint16_t port = htons(filter.port);
  dump.Put(CTA_PROTO_NUM, &number, sizeof number);
  dump.Put(CTA_PROTO_DST_PORT, &port, sizeof port);
  dump.Close(proto);
  dump.Close(tuple);
  size_t by = dump.Open(CTA_FILTER);
  uint32_t original = kFilterProtocol | kFilterDestinationPort, reply = 0;
  dump.Put(CTA_FILTER_ORIG_FLAGS, &original, sizeof original);
  dump.Put(CTA_FILTER_REPLY_FLAGS, &reply, sizeof reply);
  dump.Close(by);

  std::vector<Flow> flows;
  HK_RETURN_IF_ERROR(socket.Dump(dump.Bytes(), "list tracked connections", [&](std::string_view attributes) {
    Flow flow = ParseFlow(attributes);
    if (flow.protocol != number || flow.port != filter.port) return;
    if (filter.destination && flow.destination != *filter.destination) return;
    flows.push_back(std::move(flow));
  }));
  return flows;
}

}  // namespace

absl::StatusOr<int> DeleteFlows(const FlowFilter& filter) {
  HK_ASSIGN_OR_RETURN(NfSocket socket, NfSocket::Open());
  int deleted = 0;
  for (uint8_t family : {AF_INET, AF_INET6}) {
    if (filter.destination && (filter.destination->family == Family::kV4) != (family == AF_INET)) continue;
    HK_ASSIGN_OR_RETURN(std::vector<Flow> flows, FindFlows(socket, filter, family));
    for (const Flow& flow : flows) {
      NfMessage request(kConntrack | IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST | NLM_F_ACK, family);
      request.Put(CTA_TUPLE_ORIG | NLA_F_NESTED, flow.tuple.data(), flow.tuple.size());
      if (flow.zone) request.Put(CTA_ZONE, &*flow.zone, sizeof *flow.zone);
      absl::Status status = socket.Request(
          request.Bytes(), fmt::format("forget a {} connection to port {}", Name(filter.protocol), filter.port));
      if (status.ok())
        ++deleted;
      else if (status.code() != absl::StatusCode::kNotFound)
        return status;  // not found: it ended by itself
    }
  }
  return deleted;
}

}  // namespace heterok8s::netfilter
