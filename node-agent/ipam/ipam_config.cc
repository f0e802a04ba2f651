#include "node-agent/ipam/ipam_config.h"

#include <fmt/format.h>

#include <sstream>

#include "common/sys/file.h"
#include "node-agent/ipam/routes.h"

namespace heterok8s::ipam {
namespace {

using Json = nlohmann::json;

absl::Status Wrong(const std::string& where, std::string_view problem) {
  return cni::MakeError(cni::kInvalidConfig, fmt::format("'{}' {}", where, problem));
}

absl::StatusOr<std::string> String(const Json& object, const char* key, const std::string& where) {
  auto it = object.find(key);
  if (it == object.end() || it->is_null()) return std::string();
  if (!it->is_string()) return Wrong(fmt::format("{}.{}", where, key), "must be a string");
  return it->get<std::string>();
}

// The address under `key`, inside `subnet`; `otherwise` when the key is absent.
absl::StatusOr<IpAddress> AddressIn(const Json& object, const char* key, const std::string& where,
                                    const IpPrefix& subnet, const IpAddress& otherwise) {
  HK_ASSIGN_OR_RETURN(std::string text, String(object, key, where));
  if (text.empty()) return otherwise;
  absl::StatusOr<IpAddress> address = IpAddress::Parse(text);
  if (!address.ok()) return Wrong(fmt::format("{}.{}", where, key), Message(address.status()));
  if (!subnet.Contains(*address)) {
    return Wrong(fmt::format("{}.{}", where, key), fmt::format("{} is not in {}", text, subnet.ToString()));
  }
  return address;
}

absl::StatusOr<Range> ParseRange(const Json& json, const std::string& where) {
  if (!json.is_object()) return Wrong(where, "must be an object with 'subnet'");
  HK_ASSIGN_OR_RETURN(std::string subnet_text, String(json, "subnet", where));
  if (subnet_text.empty()) return Wrong(where + ".subnet", "is missing");
  absl::StatusOr<IpPrefix> subnet = IpPrefix::Parse(subnet_text);
  if (!subnet.ok()) return Wrong(where + ".subnet", Message(subnet.status()));
  if (*subnet != subnet->Masked()) {
    return Wrong(where + ".subnet",
                 fmt::format("{} has host bits set; did you mean {}?", subnet_text, subnet->Masked().ToString()));
  }
  if (subnet->length + 2 > subnet->address.bits()) {
    return Wrong(where + ".subnet", fmt::format("{} is too small to allocate from", subnet_text));
  }

  // Neither the network's own address (IPv6: the routers' anycast address) nor IPv4's broadcast address is a Pod's.
  const IpAddress lowest = subnet->address.Plus(1);
  IpAddress highest = subnet->Last();
  if (highest.family == Family::kV4) highest = IpAddress::V4(highest.v4() - 1);
  Range range{.subnet = *subnet};
  HK_ASSIGN_OR_RETURN(range.first, AddressIn(json, "rangeStart", where, *subnet, lowest));
  HK_ASSIGN_OR_RETURN(range.last, AddressIn(json, "rangeEnd", where, *subnet, highest));
  HK_ASSIGN_OR_RETURN(range.gateway, AddressIn(json, "gateway", where, *subnet, lowest));
  if (range.first < lowest) range.first = lowest;
  if (range.last > highest) range.last = highest;
  if (range.last < range.first) return Wrong(where, "rangeStart comes after rangeEnd");
  return range;
}

absl::StatusOr<RangeSet> ParseSet(const Json& json, const std::string& where) {
  if (!json.is_array() || json.empty()) return Wrong(where, "must be a list of ranges, not empty");
  RangeSet set;
  for (size_t i = 0; i < json.size(); ++i) {
    HK_ASSIGN_OR_RETURN(Range range, ParseRange(json[i], fmt::format("{}[{}]", where, i)));
    if (!set.empty() && set[0].subnet.address.family != range.subnet.address.family) {
      return Wrong(where, "mixes IPv4 and IPv6; a Pod gets one address of each set, so give each family a set");
    }
    set.push_back(range);
  }
  return set;
}

absl::Status ParseSets(const Json& json, const std::string& where, std::vector<RangeSet>& sets) {
  if (!json.is_array()) return Wrong(where, "must be a list of lists of ranges");
  for (size_t i = 0; i < json.size(); ++i) {
    HK_ASSIGN_OR_RETURN(RangeSet set, ParseSet(json[i], fmt::format("{}[{}]", where, i)));
    sets.push_back(std::move(set));
  }
  return absl::OkStatus();
}

absl::Status CheckOverlaps(const std::vector<RangeSet>& sets) {
  std::vector<const Range*> all;
  for (const RangeSet& set : sets) {
    for (const Range& range : set) all.push_back(&range);
  }
  for (size_t i = 0; i < all.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (all[i]->first.family == all[j]->first.family && all[i]->first <= all[j]->last &&
          all[j]->first <= all[i]->last) {
        return Wrong("ipam.ranges",
                     fmt::format("{} to {} and {} to {} overlap", all[j]->first.ToString(), all[j]->last.ToString(),
                                 all[i]->first.ToString(), all[i]->last.ToString()));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<cni::Route>> ParseRoutes(const Json& ipam) {
  auto it = ipam.find("routes");
  if (it == ipam.end() || it->is_null()) return std::vector<cni::Route>();
  HK_RETURN_IF_ERROR(CheckRouteKeys(*it, "ipam.routes"));
  absl::StatusOr<cni::Result> parsed = cni::ParseResult(Json{{"routes", *it}});
  if (!parsed.ok()) return Annotate(parsed.status(), "ipam");
  return std::move(parsed->routes);
}

}  // namespace

bool Range::Holds(const IpAddress& address) const {
  return address.family == first.family && first <= address && address <= last && address != gateway;
}

cni::Dns ParseResolvConf(const std::string& text) {
  cni::Dns dns;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line.substr(0, line.find_first_of("#;")));
    std::string key, word;
    words >> key;
    std::vector<std::string> values;
    while (words >> word) values.push_back(word);
    if (values.empty()) continue;
    // "domain" and "search" exclude each other in resolv.conf, and the last line of a kind wins; nameservers add up.
    if (key == "nameserver") dns.nameservers.push_back(values[0]);
    if (key == "domain") dns.domain = values[0];
    if (key == "search") dns.search = values;
    if (key == "options") dns.options.insert(dns.options.end(), values.begin(), values.end());
  }
  return dns;
}

absl::StatusOr<IpamConfig> ParseIpamConfig(const cni::NetworkConfig& config) {
  const Json& ipam = config.ipam;
  if (!ipam.is_object()) return Wrong("ipam", "is missing");
  IpamConfig parsed;

  // What the runtime asks for at run time comes first, then the short form, then the list.
  auto runtime = config.raw.find("runtimeConfig");
  if (runtime != config.raw.end() && runtime->is_object() && runtime->contains("ipRanges")) {
    HK_RETURN_IF_ERROR(ParseSets((*runtime)["ipRanges"], "runtimeConfig.ipRanges", parsed.sets));
  }
  if (ipam.contains("subnet")) {
    HK_ASSIGN_OR_RETURN(Range range, ParseRange(ipam, "ipam"));
    parsed.sets.push_back({range});
  }
  if (auto ranges = ipam.find("ranges"); ranges != ipam.end() && !ranges->is_null()) {
    HK_RETURN_IF_ERROR(ParseSets(*ranges, "ipam.ranges", parsed.sets));
  }
  if (parsed.sets.empty()) return Wrong("ipam", "has neither 'ranges' nor 'subnet'");
  HK_RETURN_IF_ERROR(CheckOverlaps(parsed.sets));

  HK_ASSIGN_OR_RETURN(parsed.routes, ParseRoutes(ipam));
  parsed.dns = config.dns;
  HK_ASSIGN_OR_RETURN(std::string resolv_conf, String(ipam, "resolvConf", "ipam"));
  if (!resolv_conf.empty()) {
    absl::StatusOr<std::string> text = sys::ReadFile(resolv_conf, 1u << 20);
    if (!text.ok()) return Wrong("ipam.resolvConf", Message(text.status()));
    parsed.dns = ParseResolvConf(*text);
  }
  return parsed;
}

}  // namespace heterok8s::ipam
