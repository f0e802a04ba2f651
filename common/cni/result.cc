#include <fmt/format.h>

#include "common/cni/fields.h"
#include "common/cni/types.h"

namespace heterok8s::cni {
namespace {

absl::StatusOr<IpAddress> Address(const std::string& text, const std::string& where) {
  absl::StatusOr<IpAddress> address = IpAddress::Parse(text);
  if (!address.ok()) return WrongField(where, Message(address.status()));
  return address;
}

absl::StatusOr<Interface> ParseInterface(const Json& json, const std::string& where) {
  if (!json.is_object()) return WrongField(where, "must be an object");
  Interface interface;
  uint64_t mtu = 0;
  HK_RETURN_IF_ERROR(ReadString(json, "name", where, interface.name));
  HK_RETURN_IF_ERROR(ReadString(json, "mac", where, interface.mac));
  HK_RETURN_IF_ERROR(ReadString(json, "sandbox", where, interface.sandbox));
  HK_RETURN_IF_ERROR(ReadUint(json, "mtu", where, INT32_MAX, mtu));
  HK_RETURN_IF_ERROR(ReadString(json, "pciID", where, interface.pci_id));
  HK_RETURN_IF_ERROR(ReadString(json, "socketPath", where, interface.socket_path));
  interface.mtu = static_cast<int>(mtu);
  return interface;
}

absl::StatusOr<ResultIp> ParseIp(const Json& json, const std::string& where) {
  if (!json.is_object()) return WrongField(where, "must be an object");
  ResultIp ip;
  std::string address, gateway;
  HK_RETURN_IF_ERROR(ReadString(json, "address", where, address));
  HK_RETURN_IF_ERROR(ReadString(json, "gateway", where, gateway));
  absl::StatusOr<IpPrefix> prefix = IpPrefix::Parse(address);
  if (!prefix.ok()) return WrongField(where + ".address", Message(prefix.status()));
  ip.address = *prefix;
  if (!gateway.empty()) {
    HK_ASSIGN_OR_RETURN(ip.gateway, Address(gateway, where + ".gateway"));
  }
  if (Find(json, "interface") != nullptr) {
    uint64_t index = 0;
    HK_RETURN_IF_ERROR(ReadUint(json, "interface", where, UINT32_MAX, index));
    ip.interface = index;
  }
  return ip;
}

absl::StatusOr<Route> ParseRoute(const Json& json, const std::string& where) {
  if (!json.is_object()) return WrongField(where, "must be an object");
  Route route;
  std::string dst, gw;
  uint64_t mtu = 0;
  HK_RETURN_IF_ERROR(ReadString(json, "dst", where, dst));
  HK_RETURN_IF_ERROR(ReadString(json, "gw", where, gw));
  HK_RETURN_IF_ERROR(ReadUint(json, "mtu", where, INT32_MAX, mtu));
  absl::StatusOr<IpPrefix> prefix = IpPrefix::Parse(dst);
  if (!prefix.ok()) return WrongField(where + ".dst", Message(prefix.status()));
  route.dst = *prefix;
  if (!gw.empty()) {
    HK_ASSIGN_OR_RETURN(route.gw, Address(gw, where + ".gw"));
  }
  route.mtu = static_cast<int>(mtu);
  return route;
}

template <typename T>
absl::Status ReadList(const Json& json, const char* key, absl::StatusOr<T> (*parse)(const Json&, const std::string&),
                      std::vector<T>& out) {
  const Json* list = nullptr;
  HK_RETURN_IF_ERROR(ReadArray(json, key, "", list));
  for (size_t i = 0; list != nullptr && i < list->size(); ++i) {
    HK_ASSIGN_OR_RETURN(T item, parse((*list)[i], fmt::format("{}[{}]", key, i)));
    out.push_back(std::move(item));
  }
  return absl::OkStatus();
}

Json ToJson(const Interface& interface, bool v11) {
  Json json = {{"name", interface.name}};
  if (!interface.mac.empty()) json["mac"] = interface.mac;
  if (!interface.sandbox.empty()) json["sandbox"] = interface.sandbox;
  if (!v11) return json;
  if (interface.mtu != 0) json["mtu"] = interface.mtu;
  if (!interface.pci_id.empty()) json["pciID"] = interface.pci_id;
  if (!interface.socket_path.empty()) json["socketPath"] = interface.socket_path;
  return json;
}

Json ToJson(const ResultIp& ip, bool with_version) {
  Json json = {{"address", ip.address.ToString()}};
  if (ip.gateway) json["gateway"] = ip.gateway->ToString();
  if (ip.interface) json["interface"] = *ip.interface;
  if (with_version) json["version"] = ip.address.address.family == Family::kV4 ? "4" : "6";
  return json;
}

Json ToJson(const Route& route, bool v11) {
  Json json = {{"dst", route.dst.ToString()}};
  if (route.gw) json["gw"] = route.gw->ToString();
  if (v11 && route.mtu != 0) json["mtu"] = route.mtu;
  return json;
}

Json ToJson(const Dns& dns) {
  Json json = Json::object();
  if (!dns.nameservers.empty()) json["nameservers"] = dns.nameservers;
  if (!dns.domain.empty()) json["domain"] = dns.domain;
  if (!dns.search.empty()) json["search"] = dns.search;
  if (!dns.options.empty()) json["options"] = dns.options;
  return json;
}

}  // namespace

absl::StatusOr<Result> ParseResult(const Json& json) {
  if (!json.is_object()) return MakeError(kInvalidConfig, "a CNI result must be an object");
  Result result;
  HK_RETURN_IF_ERROR(ReadList(json, "interfaces", ParseInterface, result.interfaces));
  HK_RETURN_IF_ERROR(ReadList(json, "ips", ParseIp, result.ips));
  HK_RETURN_IF_ERROR(ReadList(json, "routes", ParseRoute, result.routes));
  const Json* dns = nullptr;
  HK_RETURN_IF_ERROR(ReadObject(json, "dns", "", dns));
  if (dns != nullptr) HK_RETURN_IF_ERROR(ReadDns(*dns, "dns", result.dns));
  for (size_t i = 0; i < result.ips.size(); ++i) {
    if (result.ips[i].interface && *result.ips[i].interface >= result.interfaces.size()) {
      return WrongField(fmt::format("ips[{}].interface", i), "is no index into 'interfaces'");
    }
  }
  return result;
}

Json ToJson(const Result& result, const std::string& cni_version) {
  const bool v11 = CompareVersions(cni_version, "1.1.0") >= 0;
  const bool with_ip_version = CompareVersions(cni_version, "1.0.0") < 0;
  Json json = {{"cniVersion", cni_version}, {"dns", ToJson(result.dns)}};
  for (const Interface& interface : result.interfaces) json["interfaces"].push_back(ToJson(interface, v11));
  for (const ResultIp& ip : result.ips) json["ips"].push_back(ToJson(ip, with_ip_version));
  for (const Route& route : result.routes) json["routes"].push_back(ToJson(route, v11));
  return json;
}

Result Amend(Result previous, const Result& ours) {
  const size_t shift = previous.interfaces.size();
  previous.interfaces.insert(previous.interfaces.end(), ours.interfaces.begin(), ours.interfaces.end());
  for (ResultIp ip : ours.ips) {
    if (ip.interface) *ip.interface += shift;
    previous.ips.push_back(std::move(ip));
  }
  previous.routes.insert(previous.routes.end(), ours.routes.begin(), ours.routes.end());
  auto fill = [](auto& into, const auto& from) {
    if (into.empty()) into = from;
  };
  fill(previous.dns.nameservers, ours.dns.nameservers);
  fill(previous.dns.search, ours.dns.search);
  fill(previous.dns.options, ours.dns.options);
  fill(previous.dns.domain, ours.dns.domain);
  return previous;
}

}  // namespace heterok8s::cni
