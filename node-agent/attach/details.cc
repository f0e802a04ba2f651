#include "node-agent/attach/details.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "common/json/whole.h"

namespace heterok8s::attach {
namespace {

using nlohmann::json;

// Thrown and caught in this file: the JSON library throws too, so one catch in Parse sees both.
struct BadField : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <typename T>
T Must(absl::StatusOr<T> parsed) {
  if (!parsed.ok()) throw BadField(Message(parsed.status()));
  return *std::move(parsed);
}

json ToJson(const podnet::PortRange& range) { return json::array({range.first, range.last}); }
podnet::PortRange RangeOf(const json& j, const char* key) {
  return {WholeAt<uint16_t>(j, key, 0), WholeAt<uint16_t>(j, key, 1)};
}

json ToJson(const Join& join) {
  return {{"generation", join.generation},
          {"committed", join.committed},
          {"link", json::array({join.addresses.host_localhost.ToString(), join.addresses.dpu_localhost.ToString(),
                                join.addresses.host_pod.ToString(), join.addresses.dpu_pod.ToString()})},
          {"hostEphemeral", ToJson(join.host_ephemeral)},
          {"dpuEphemeral", ToJson(join.dpu_ephemeral)}};
}
Join JoinOf(const json& j) {
  Join join;
  join.generation = WholeAt<uint64_t>(j, "generation");
  join.committed = j.at("committed").get<bool>();
  auto link = [&](size_t i) { return Must(IpAddress::Parse(j.at("link").at(i).get<std::string>())); };
  join.addresses = {.host_localhost = link(0), .dpu_localhost = link(1), .host_pod = link(2), .dpu_pod = link(3)};
  join.host_ephemeral = RangeOf(j, "hostEphemeral");
  join.dpu_ephemeral = RangeOf(j, "dpuEphemeral");
  return join;
}

json ToJson(const podnet::PodRoute& route) {
  json j = {{"dst", route.destination.ToString()}};
  if (route.mtu != 0) j["mtu"] = route.mtu;
  return j;
}
podnet::PodRoute PodRouteOf(const json& j) {
  return {.destination = Must(IpPrefix::Parse(j.at("dst").get<std::string>())),
          .mtu = j.contains("mtu") ? WholeAt<int>(j, "mtu") : 0};
}

json ToJson(const podnet::HostPort& port) {
  json j = {{"protocol", std::string(Name(port.protocol))},
            {"hostPort", port.host_port},
            {"containerPort", port.container_port}};
  if (port.host_ip.has_value()) j["hostIP"] = port.host_ip->ToString();
  return j;
}
podnet::HostPort HostPortOf(const json& j) {
  podnet::HostPort port;
  port.protocol = Must(ParseProtocol(j.at("protocol").get<std::string>()));
  port.host_port = WholeAt<uint16_t>(j, "hostPort");
  port.container_port = WholeAt<uint16_t>(j, "containerPort");
  if (j.contains("hostIP")) port.host_ip = Must(IpAddress::Parse(j.at("hostIP").get<std::string>()));
  return port;
}

// The IPAM part is a CNI result without interfaces, so its own writer and parser serve.
json IpamToJson(const Details& details) {
  cni::Result result;
  result.ips = details.ips;
  result.routes = details.routes;
  result.dns = details.dns;
  return cni::ToJson(result, cni::kLatestVersion);
}

void SetUnlessEmpty(json& j, const char* name, const std::string& value) {
  if (!value.empty()) j[name] = value;
}

}  // namespace

std::string OwnerOf(const std::string& pod_key, const std::string& ifname) {
  return ifname == "eth0" ? pod_key : fmt::format("{}.{}", pod_key, ifname);
}

std::string Details::ToText() const {
  json j = {{"owner", owner}, {"reason", placement_reason}, {"mtu", mtu}};
  for (const IpAddress& address : addresses) j["addresses"].push_back(address.ToString());
  if (!ips.empty()) j["ipam"] = IpamToJson(*this);
  for (const podnet::PodRoute& route : pod_routes) j["podRoutes"].push_back(ToJson(route));
  SetUnlessEmpty(j, "mac", mac);
  if (bandwidth.has_value()) {
    j["bandwidth"] = {bandwidth->ingress_rate_bits, bandwidth->ingress_burst_bits, bandwidth->egress_rate_bits,
                      bandwidth->egress_burst_bits};
  }
  for (const podnet::HostPort& port : host_ports) j["hostPorts"].push_back(ToJson(port));
  for (const IpPrefix& range : masquerade_outside) j["masqueradeOutside"].push_back(range.ToString());
  if (join.has_value()) j["join"] = ToJson(*join);
  SetUnlessEmpty(j, "ownNetns", own_netns);
  SetUnlessEmpty(j, "delegatedStdin", delegated_stdin);
  if (!delegated_environment.empty()) j["delegatedEnvironment"] = delegated_environment;
  return j.dump(-1, ' ', false, json::error_handler_t::replace);
}

absl::StatusOr<Details> Details::Parse(const std::string& text) {
  try {
    json j = json::parse(text);
    Details d;
    d.owner = j.at("owner").get<std::string>();
    d.placement_reason = j.at("reason").get<std::string>();
    d.mtu = WholeAt<int>(j, "mtu");
    for (const json& address : j.value("addresses", json::array())) {
      d.addresses.push_back(Must(IpAddress::Parse(address.get<std::string>())));
    }
    if (j.contains("ipam")) {
      cni::Result result = Must(cni::ParseResult(j.at("ipam")));
      d.ips = std::move(result.ips);
      d.routes = std::move(result.routes);
      d.dns = std::move(result.dns);
    }
    for (const json& route : j.value("podRoutes", json::array())) d.pod_routes.push_back(PodRouteOf(route));
    d.mac = j.value("mac", "");
    if (j.contains("bandwidth")) {
      auto number = [&](size_t i) { return WholeAt<uint64_t>(j, "bandwidth", i); };
      d.bandwidth = {number(0), number(1), number(2), number(3)};
    }
    for (const json& port : j.value("hostPorts", json::array())) d.host_ports.push_back(HostPortOf(port));
    for (const json& range : j.value("masqueradeOutside", json::array())) {
      d.masquerade_outside.push_back(Must(IpPrefix::Parse(range.get<std::string>())));
    }
    if (j.contains("join")) d.join = JoinOf(j.at("join"));
    d.own_netns = j.value("ownNetns", "");
    d.delegated_stdin = j.value("delegatedStdin", "");
    if (j.contains("delegatedEnvironment")) j.at("delegatedEnvironment").get_to(d.delegated_environment);
    return d;
  } catch (const std::exception& error) {
    return absl::DataLossError(fmt::format("the details of an attachment cannot be read: {}", error.what()));
  }
}

Details DetailsOrColumns(const ledger::Attachment& row) {
  absl::StatusOr<Details> parsed = Details::Parse(row.details);
  return parsed.ok() ? *std::move(parsed) : Details{.owner = OwnerOf(row.pod_key, row.key.ifname)};
}

pu::OwnerTag TagOf(const Identity& identity, const ledger::Attachment& row) {
  return {.instance = identity.instance, .pod_key = row.pod_key, .ifname = row.key.ifname};
}

podnet::UplinkSpec UplinkSpecOf(const Identity& identity, const ledger::Attachment& row, const Details& details) {
  return {.owner = TagOf(identity, row),
          .netns_path = row.netns_path,
          .ifname = row.key.ifname,
          .addresses = details.addresses,
          .routes = details.pod_routes,
          .mtu = details.mtu,
          .mac = details.mac,
          .bandwidth = details.bandwidth};
}

podnet::LinkSpec LinkSpecOf(const Identity& identity, const ledger::Attachment& row, const Details& details) {
  const bool host = identity.side == pu::Side::kHost;
  pu::OwnerTag tag = TagOf(identity, row);
  std::string host_mac = pu::LinkMac(tag, pu::Side::kHost), dpu_mac = pu::LinkMac(tag, pu::Side::kDpu);
  return {.owner = tag,
          .side = identity.side,
          .netns_path = row.netns_path,
          .ifname = host ? row.key.ifname : kDpuLinkName,
          .uplink_ifname = host ? "" : row.key.ifname,
          .addresses = details.addresses,
          .routes = details.pod_routes,
          .link = details.join->addresses,
          .host_ephemeral = details.join->host_ephemeral,
          .dpu_ephemeral = details.join->dpu_ephemeral,
          .mtu = details.mtu,
          .mac = host ? host_mac : dpu_mac,
          .peer_mac = host ? dpu_mac : host_mac};
}

ports::PodPorts PodPortsOf(const Identity& identity, const ledger::Attachment& row, const Details& details) {
  const bool host = identity.side == pu::Side::kHost;
  const Join& join = *details.join;
  return {.pod_key = row.pod_key,
          .side = identity.side,
          .netns_path = row.netns_path,
          .addresses = details.addresses,
          .link = join.addresses,
          .own_ephemeral = host ? join.host_ephemeral : join.dpu_ephemeral,
          .other_ephemeral = host ? join.dpu_ephemeral : join.host_ephemeral};
}

podnet::HostPortSpec HostPortSpecOf(const Identity& identity, const Details& details) {
  podnet::HostPortSpec spec{.pod_key = details.owner, .ports = details.host_ports, .addresses = details.addresses};
  spec.of_other_pu = identity.side == pu::Side::kDpu;
  if (identity.side == pu::Side::kDpu || !details.join.has_value())
    spec.masquerade_outside = details.masquerade_outside;
  return spec;
}

podnet::LinkAddresses LinkBlock(const IpAddress& base) {
  return {.host_localhost = base, .dpu_localhost = base.Plus(1), .host_pod = base.Plus(2), .dpu_pod = base.Plus(3)};
}

}  // namespace heterok8s::attach
