#include "node-agent/peer/convert.h"

#include <fmt/format.h>

namespace heterok8s::peer {
namespace {

void Set(v1::PortRange* message, const podnet::PortRange& range) {
  message->set_first(range.first);
  message->set_last(range.last);
}

absl::StatusOr<podnet::PortRange> Range(const v1::PortRange& message, std::string_view field) {
  if (message.first() == 0 || message.first() > message.last() || message.last() > 65535) {
    return absl::InvalidArgumentError(
        fmt::format("{}: {}-{} is no port range", field, message.first(), message.last()));
  }
  return podnet::PortRange{static_cast<uint16_t>(message.first()), static_cast<uint16_t>(message.last())};
}

absl::StatusOr<IpAddress> Address(const std::string& text, std::string_view field) {
  absl::StatusOr<IpAddress> address = IpAddress::Parse(text);
  if (!address.ok()) return Annotate(address.status(), field);
  return address;
}

absl::StatusOr<uint16_t> Port(uint32_t number, std::string_view field) {
  if (number == 0 || number > 65535) return absl::InvalidArgumentError(fmt::format("{}: {} is no port", field, number));
  return static_cast<uint16_t>(number);
}

void AddTo(google::protobuf::RepeatedPtrField<v1::PodRoute>* messages, const std::vector<podnet::PodRoute>& routes) {
  for (const podnet::PodRoute& route : routes) {
    v1::PodRoute* message = messages->Add();
    message->set_destination(route.destination.ToString());
    message->set_mtu(route.mtu);
  }
}

absl::StatusOr<std::vector<podnet::PodRoute>> Routes(const google::protobuf::RepeatedPtrField<v1::PodRoute>& messages) {
  std::vector<podnet::PodRoute> routes;
  for (const v1::PodRoute& message : messages) {
    absl::StatusOr<IpPrefix> destination = IpPrefix::Parse(message.destination());
    if (!destination.ok()) return Annotate(destination.status(), "routes");
    if (*destination != destination->Masked()) {
      return absl::InvalidArgumentError(fmt::format("routes: {} has host bits set", message.destination()));
    }
    if (message.mtu() < 0) return absl::InvalidArgumentError(fmt::format("routes: {} is no MTU", message.mtu()));
    routes.push_back({.destination = *destination, .mtu = message.mtu()});
  }
  return routes;
}

// The two sides say the same of themselves.
template <typename Message>
Heartbeat HeartbeatOf(const Message& message) {
  Heartbeat heartbeat{.epoch = message.epoch(),
                      .boot_id = message.boot_id(),
                      .ready = message.ready(),
                      .not_ready_reason = message.not_ready_reason()};
  if (message.has_halves()) {
    heartbeat.halves.emplace();
    for (const v1::PodGeneration& pod : message.halves().pods()) heartbeat.halves->push_back(FromProto(pod));
  }
  return heartbeat;
}

}  // namespace

v1::PrepareRequest ToProto(const attach::PrepareRequest& request) {
  v1::PrepareRequest message;
  message.set_pod_key(request.pod_key);
  message.set_generation(request.generation);
  message.set_instance(request.instance);
  message.set_network(request.network);
  message.set_container_id(request.container_id);
  message.set_ifname(request.ifname);
  message.set_pod_namespace(request.pod_namespace);
  message.set_pod_name(request.pod_name);
  for (const IpAddress& address : request.addresses) message.add_addresses(address.ToString());
  message.set_host_localhost(request.link.host_localhost.ToString());
  message.set_dpu_localhost(request.link.dpu_localhost.ToString());
  message.set_host_pod(request.link.host_pod.ToString());
  message.set_dpu_pod(request.link.dpu_pod.ToString());
  Set(message.mutable_host_ephemeral(), request.host_ephemeral);
  Set(message.mutable_dpu_ephemeral(), request.dpu_ephemeral);
  message.set_mtu(request.mtu);
  if (request.bandwidth) {
    v1::Bandwidth* bandwidth = message.mutable_bandwidth();
    bandwidth->set_ingress_rate_bits(request.bandwidth->ingress_rate_bits);
    bandwidth->set_ingress_burst_bits(request.bandwidth->ingress_burst_bits);
    bandwidth->set_egress_rate_bits(request.bandwidth->egress_rate_bits);
    bandwidth->set_egress_burst_bits(request.bandwidth->egress_burst_bits);
  }
  for (const IpPrefix& range : request.masquerade_outside) message.add_masquerade_outside(range.ToString());
  for (const podnet::HostPort& port : request.host_ports) {
    v1::HostPort* to = message.add_host_ports();
    to->set_protocol(std::string(Name(port.protocol)));
    to->set_host_ip(port.host_ip->ToString());
    to->set_host_port(port.host_port);
    to->set_container_port(port.container_port);
  }
  AddTo(message.mutable_routes(), request.routes);
  return message;
}

absl::StatusOr<attach::PrepareRequest> FromProto(const v1::PrepareRequest& message) {
  attach::PrepareRequest request{.pod_key = message.pod_key(),
                                 .generation = message.generation(),
                                 .instance = message.instance(),
                                 .network = message.network(),
                                 .container_id = message.container_id(),
                                 .ifname = message.ifname(),
                                 .pod_namespace = message.pod_namespace(),
                                 .pod_name = message.pod_name(),
                                 .mtu = message.mtu()};
  for (const std::string& text : message.addresses()) {
    HK_ASSIGN_OR_RETURN(IpAddress address, Address(text, "addresses"));
    request.addresses.push_back(address);
  }
  HK_ASSIGN_OR_RETURN(request.link.host_localhost, Address(message.host_localhost(), "host_localhost"));
  HK_ASSIGN_OR_RETURN(request.link.dpu_localhost, Address(message.dpu_localhost(), "dpu_localhost"));
  HK_ASSIGN_OR_RETURN(request.link.host_pod, Address(message.host_pod(), "host_pod"));
  HK_ASSIGN_OR_RETURN(request.link.dpu_pod, Address(message.dpu_pod(), "dpu_pod"));
  HK_ASSIGN_OR_RETURN(request.host_ephemeral, Range(message.host_ephemeral(), "host_ephemeral"));
  HK_ASSIGN_OR_RETURN(request.dpu_ephemeral, Range(message.dpu_ephemeral(), "dpu_ephemeral"));
  if (message.has_bandwidth()) {
    request.bandwidth = podnet::Bandwidth{.ingress_rate_bits = message.bandwidth().ingress_rate_bits(),
                                          .ingress_burst_bits = message.bandwidth().ingress_burst_bits(),
                                          .egress_rate_bits = message.bandwidth().egress_rate_bits(),
                                          .egress_burst_bits = message.bandwidth().egress_burst_bits()};
  }
  for (const std::string& text : message.masquerade_outside()) {
    absl::StatusOr<IpPrefix> range = IpPrefix::Parse(text);
    if (!range.ok()) return Annotate(range.status(), "masquerade_outside");
    request.masquerade_outside.push_back(*range);
  }
  for (const v1::HostPort& port : message.host_ports()) {
    HK_ASSIGN_OR_RETURN(Protocol protocol, ParseProtocol(port.protocol()));
    HK_ASSIGN_OR_RETURN(IpAddress host_ip, Address(port.host_ip(), "host_ports.host_ip"));
    HK_ASSIGN_OR_RETURN(uint16_t host_port, Port(port.host_port(), "host_ports.host_port"));
    HK_ASSIGN_OR_RETURN(uint16_t container_port, Port(port.container_port(), "host_ports.container_port"));
    request.host_ports.push_back(
        {.protocol = protocol, .host_ip = host_ip, .host_port = host_port, .container_port = container_port});
  }
  HK_ASSIGN_OR_RETURN(request.routes, Routes(message.routes()));
  return request;
}

v1::PrepareReply ToProto(const attach::PrepareReply& reply) {
  v1::PrepareReply message;
  message.set_netns_path(reply.netns_path);
  message.set_uplink_mac(reply.uplink_mac);
  message.set_twin(reply.twin);
  return message;
}

attach::PrepareReply FromProto(const v1::PrepareReply& message) {
  return {.netns_path = message.netns_path(), .uplink_mac = message.uplink_mac(), .twin = message.twin()};
}

v1::PodGeneration ToProto(const attach::PodGeneration& pod) {
  v1::PodGeneration message;
  message.set_pod_key(pod.pod_key);
  message.set_generation(pod.generation);
  return message;
}

attach::PodGeneration FromProto(const v1::PodGeneration& message) {
  return {.pod_key = message.pod_key(), .generation = message.generation()};
}

v1::Halves ToProto(const std::vector<attach::PodGeneration>& halves) {
  v1::Halves message;
  for (const attach::PodGeneration& pod : halves) *message.add_pods() = ToProto(pod);
  return message;
}

Heartbeat FromProto(const v1::HeartbeatRequest& message) { return HeartbeatOf(message); }
Heartbeat FromProto(const v1::HeartbeatReply& message) {
  Heartbeat heartbeat = HeartbeatOf(message);
  // What no Pod could use (RFC 8200 wants 1280) is not known, rather than the end of every ADD.
  const int mtu = message.uplink_mtu();
  heartbeat.uplink_mtu = mtu >= 1280 && mtu <= 65535 ? mtu : 0;
  return heartbeat;
}

v1::SyncRequest ToProto(const attach::SyncRequest& request) {
  v1::SyncRequest message;
  message.set_epoch(request.epoch);
  message.set_newest_generation(request.newest_generation);
  for (const attach::PodGeneration& pod : request.pods) *message.add_pods() = ToProto(pod);
  return message;
}

attach::SyncRequest FromProto(const v1::SyncRequest& message) {
  attach::SyncRequest request{.epoch = message.epoch(), .newest_generation = message.newest_generation()};
  for (const v1::PodGeneration& pod : message.pods()) request.pods.push_back(FromProto(pod));
  return request;
}

v1::SyncReply ToProto(const attach::SyncReply& reply) {
  v1::SyncReply message;
  for (const attach::PodGeneration& pod : reply.pods) *message.add_pods() = ToProto(pod);
  return message;
}

attach::SyncReply FromProto(const v1::SyncReply& message) {
  attach::SyncReply reply;
  for (const v1::PodGeneration& pod : message.pods()) reply.pods.push_back(FromProto(pod));
  return reply;
}

v1::ReserveRequest ToProto(const attach::ReserveRequest& request) {
  v1::ReserveRequest message;
  message.set_pod_key(request.pod_key);
  message.set_network(request.network);
  message.set_pod_namespace(request.pod_namespace);
  message.set_pod_name(request.pod_name);
  message.mutable_annotations()->insert(request.annotations.begin(), request.annotations.end());
  message.set_network_config(request.network_config);
  return message;
}

attach::ReserveRequest FromProto(const v1::ReserveRequest& message) {
  return {.pod_key = message.pod_key(),
          .network = message.network(),
          .pod_namespace = message.pod_namespace(),
          .pod_name = message.pod_name(),
          .annotations = {message.annotations().begin(), message.annotations().end()},
          .network_config = message.network_config()};
}

v1::ReserveReply ToProto(const attach::ReserveReply& reply) {
  v1::ReserveReply message;
  for (const IpPrefix& address : reply.addresses) message.add_addresses(address.ToString());
  message.set_mtu(reply.mtu);
  AddTo(message.mutable_routes(), reply.routes);
  return message;
}

absl::StatusOr<attach::ReserveReply> FromProto(const v1::ReserveReply& message) {
  attach::ReserveReply reply{.mtu = message.mtu()};
  for (const std::string& text : message.addresses()) {
    absl::StatusOr<IpPrefix> address = IpPrefix::Parse(text);
    if (!address.ok()) return Annotate(address.status(), "addresses");
    reply.addresses.push_back(*address);
  }
  HK_ASSIGN_OR_RETURN(reply.routes, Routes(message.routes()));
  return reply;
}

v1::PortKey ToProto(const ports::PortKey& key) {
  v1::PortKey message;
  message.set_protocol(static_cast<uint32_t>(key.protocol));
  message.set_address(key.address.ToString());
  message.set_port(key.port);
  message.set_dual_stack(key.dual_stack);
  return message;
}

absl::StatusOr<ports::PortKey> FromProto(const v1::PortKey& message) {
  ports::PortKey key{.protocol = static_cast<Protocol>(message.protocol()), .dual_stack = message.dual_stack()};
  if (message.protocol() != static_cast<uint32_t>(Protocol::kTcp) &&
      message.protocol() != static_cast<uint32_t>(Protocol::kUdp)) {
    return absl::InvalidArgumentError(fmt::format("port: protocol {} is neither TCP nor UDP", message.protocol()));
  }
  if (message.port() == 0 || message.port() > 65535) {
    return absl::InvalidArgumentError(fmt::format("port: {} is no port number", message.port()));
  }
  key.port = static_cast<uint16_t>(message.port());
  HK_ASSIGN_OR_RETURN(key.address, Address(message.address(), "port"));
  return key;
}

}  // namespace heterok8s::peer
