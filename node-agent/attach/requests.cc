#include "node-agent/attach/requests.h"

#include <fmt/format.h>

#include <algorithm>

#include "node-agent/attach/journal.h"

namespace heterok8s::attach {
namespace {

constexpr int kMinMtuV4 = 68;    // RFC 791
constexpr int kMinMtuV6 = 1280;  // RFC 8200

}  // namespace

std::string PodKeyOf(const cni::Request& request) {
  std::string uid = request.pod_uid();
  return uid.empty() ? request.container_id : uid;
}

ledger::AttachmentKey KeyOf(const cni::Request& request) {
  return {.network = request.config.name, .container_id = request.container_id, .ifname = request.ifname};
}

std::string Describe(const cni::Request& request) {
  std::string pod = request.pod_name().empty() ? fmt::format("container {}", request.container_id)
                                               : fmt::format("pod {}/{}", request.pod_namespace(), request.pod_name());
  return fmt::format("{} {}", Name(request.command), pod);
}

absl::Status CheckAdd(const cni::Request& request) {
  if (request.config.prev_result.has_value()) {
    return cni::MakeError(cni::kUnsupportedField,
                          fmt::format("prevResult (of {} interfaces): {} makes the Pod's interface itself and must be "
                                      "the first plugin of its list",
                                      request.config.prev_result->interfaces.size(), request.config.type));
  }
  return absl::OkStatus();
}

absl::Status CheckPrevResult(const cni::Request& request, const Details& details) {
  if (!request.config.prev_result.has_value()) {
    return cni::MakeError(cni::kInvalidConfig, "CHECK needs prevResult, and the configuration has none");
  }
  const cni::Result& shown = *request.config.prev_result;
  auto ours = [&](const cni::Interface& i) { return i.name == request.ifname && i.sandbox == request.netns; };
  if (std::none_of(shown.interfaces.begin(), shown.interfaces.end(), ours)) {
    return cni::MakeError(cni::kInvalidConfig,
                          fmt::format("prevResult shows no interface {} in {}", request.ifname, request.netns));
  }
  for (const IpAddress& address : details.addresses) {
    auto has = [&](const cni::ResultIp& ip) { return ip.address.address == address; };
    if (std::none_of(shown.ips.begin(), shown.ips.end(), has)) {
      return cni::MakeError(cni::kInvalidConfig,
                            fmt::format("prevResult does not show {}, which this attachment has", address.ToString()));
    }
  }
  return absl::OkStatus();
}

ledger::Attachment RowOf(const cni::Request& request) {
  return {.key = KeyOf(request),
          .pod_key = PodKeyOf(request),
          .pod_namespace = request.pod_namespace(),
          .pod_name = request.pod_name(),
          .netns_path = request.netns,
          .created_unix_ms = UnixMs()};
}

absl::StatusOr<Details> DetailsOf(const cni::Request& request, int default_mtu) {
  const cni::NetworkConfig& config = request.config;
  Details details;
  details.owner = OwnerOf(PodKeyOf(request), request.ifname);
  details.mtu = config.mtu != 0 ? config.mtu : default_mtu;
  // Below that the kernel would take the Pod's v6 addresses away without a word.
  if (details.mtu < kMinMtuV6) {
    return cni::MakeError(cni::kInvalidConfig,
                          fmt::format("mtu {} is below {}, the least that IPv6 allows", details.mtu, kMinMtuV6));
  }
  details.mac = config.requested_mac;
  if (config.bandwidth.has_value()) {
    details.bandwidth = podnet::Bandwidth{.ingress_rate_bits = config.bandwidth->ingress_rate,
                                          .ingress_burst_bits = config.bandwidth->ingress_burst,
                                          .egress_rate_bits = config.bandwidth->egress_rate,
                                          .egress_burst_bits = config.bandwidth->egress_burst};
  }
  for (const cni::PortMapping& mapping : config.port_mappings) {
    if (mapping.host_port == 0) continue;  // a containerPort that is only declared
    details.host_ports.push_back({.protocol = mapping.protocol,
                                  .host_ip = mapping.host_ip,
                                  .host_port = mapping.host_port,
                                  .container_port = mapping.container_port});
  }
  return details;
}

void SetLease(Details& details, const std::vector<cni::ResultIp>& ips, const std::vector<cni::Route>& routes,
              const cni::Dns& lease_dns, const cni::Dns& config_dns) {
  details.ips = ips;
  details.routes = routes;
  const bool configured = !config_dns.nameservers.empty() || !config_dns.search.empty() ||
                          !config_dns.options.empty() || !config_dns.domain.empty();
  details.dns = configured ? config_dns : lease_dns;
  details.addresses.clear();
  for (cni::ResultIp& ip : details.ips) {
    ip.interface.reset();
    details.addresses.push_back(ip.address.address);
  }
}

absl::Status SetPodRoutes(Details& details, const std::vector<IpPrefix>& subnets, const std::vector<IpAddress>& node) {
  std::vector<podnet::PodRoute>& routes = details.pod_routes;
  routes.clear();
  for (const cni::Route& route : details.routes) {
    const int least = route.dst.address.family == Family::kV6 ? kMinMtuV6 : kMinMtuV4;
    if (route.mtu != 0 && (route.mtu < least || route.mtu > details.mtu)) {
      return cni::MakeError(cni::kInvalidConfig, fmt::format("the route to {} has the mtu {}, which must be {} to {}, "
                                                             "the Pod's interface's",
                                                             route.dst.ToString(), route.mtu, least, details.mtu));
    }
    routes.push_back({.destination = route.dst, .mtu = route.mtu});
  }
  auto has_family = [&](Family family) {
    auto of_family = [&](const IpAddress& address) { return address.family == family; };
    return std::any_of(details.addresses.begin(), details.addresses.end(), of_family);
  };
  for (const IpPrefix& subnet : subnets) {
    auto same = [&](const podnet::PodRoute& route) { return route.destination == subnet; };
    const bool is_pod = subnet.length == subnet.address.bits();  // a plugin that knows of no subnet
    if (is_pod || !has_family(subnet.address.family) || std::any_of(routes.begin(), routes.end(), same)) continue;
    routes.push_back({.destination = subnet});
  }
  for (const IpAddress& address : node) {
    auto holds = [&](const podnet::PodRoute& route) { return route.destination.Contains(address); };
    if (!has_family(address.family) || std::any_of(routes.begin(), routes.end(), holds)) continue;
    routes.push_back({.destination = IpPrefix::Host(address)});
  }
  return absl::OkStatus();
}

void SetMasquerade(Details& details, const std::vector<IpPrefix>& subnets, const cni::NetworkConfig& config) {
  details.masquerade_outside = config.ip_masq ? subnets : std::vector<IpPrefix>();
}

cni::Result ResultOf(const Details& details, std::vector<cni::Interface> interfaces, size_t pod_interface) {
  cni::Result result{
      .interfaces = std::move(interfaces), .ips = details.ips, .routes = details.routes, .dns = details.dns};
  for (cni::ResultIp& ip : result.ips) ip.interface = pod_interface;
  for (cni::Route& route : result.routes) route.gw = podnet::NodeGateway(route.dst.address.family);
  return result;
}

absl::Status WithCode(const absl::Status& status, absl::StatusCode when, cni::ErrorCode code) {
  if (status.code() != when) return status;
  bool coded = false;
  status.ForEachPayload([&](absl::string_view, const absl::Cord&) { coded = true; });
  return coded ? status : cni::MakeError(code, Message(status));
}

absl::StatusOr<cni::Request> IpamRequestOf(const ledger::Attachment& row, const Details& details) {
  if (!details.delegated_stdin.empty()) {
    return cni::ParseRequest(details.delegated_environment, details.delegated_stdin);
  }
  cni::Request request;
  request.container_id = row.key.container_id;
  request.ifname = row.key.ifname;
  request.netns = row.netns_path;
  request.config.name = row.key.network;
  return request;
}

}  // namespace heterok8s::attach
