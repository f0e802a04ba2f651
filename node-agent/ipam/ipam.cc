#include "node-agent/ipam/ipam.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "node-agent/ipam/delegate.h"
#include "node-agent/ipam/ipam_config.h"
#include "node-agent/ipam/routes.h"

namespace heterok8s::ipam {
namespace {

// Calls `claim` for the parts of `range` on both sides of its gateway, until one has an address.
template <typename Claim>
absl::StatusOr<IpAddress> ClaimAroundGateway(const Range& range, Claim claim) {
  const bool inside = range.first <= range.gateway && range.gateway <= range.last;
  if (!inside) return claim(range.first, range.last);
  absl::StatusOr<IpAddress> claimed = absl::ResourceExhaustedError("only the gateway is in the range");
  if (range.gateway < range.last) claimed = claim(range.gateway.Plus(1), range.last);
  if (absl::IsResourceExhausted(claimed.status()) && range.first < range.gateway) {
    IpAddress below = range.gateway;
    for (size_t i = below.size(); i-- > 0 && below.bytes[i]-- == 0;) {
    }
    claimed = claim(range.first, below);
  }
  return claimed;
}

bool Holds(const RangeSet& set, const IpAddress& address) {
  return std::any_of(set.begin(), set.end(), [&](const Range& range) { return range.Holds(address); });
}

std::string Describe(const RangeSet& set) {
  std::string text;
  for (const Range& range : set) {
    text += fmt::format("{}{} to {}", text.empty() ? "" : ", ", range.first.ToString(), range.last.ToString());
  }
  return text;
}

// The address that `addresses` has in `set`.
std::optional<IpAddress> FindIn(const RangeSet& set, const std::vector<IpAddress>& addresses) {
  for (const IpAddress& address : addresses) {
    if (Holds(set, address)) return address;
  }
  return std::nullopt;
}

absl::StatusOr<std::vector<IpAddress>> Requested(const cni::Request& request, const IpamConfig& config) {
  std::vector<IpAddress> addresses;
  for (const IpPrefix& prefix : request.config.requested_ips) {
    auto holder = std::find_if(config.sets.begin(), config.sets.end(),
                               [&](const RangeSet& set) { return Holds(set, prefix.address); });
    if (holder == config.sets.end()) {
      return cni::MakeError(cni::kInvalidConfig,
                            fmt::format("requested address {} is in none of the ranges", prefix.address.ToString()));
    }
    if (FindIn(*holder, addresses)) {
      return cni::MakeError(cni::kInvalidConfig,
                            fmt::format("two requested addresses are of one range set ({})", Describe(*holder)));
    }
    addresses.push_back(prefix.address);
  }
  return addresses;
}

absl::StatusOr<IpAddress> ClaimRequested(ledger::Tx& tx, const std::string& network, const IpAddress& address,
                                         const std::string& pod_key) {
  absl::Status claimed = tx.ClaimAddress(network, address, pod_key);
  if (!absl::IsAlreadyExists(claimed)) return claimed.ok() ? absl::StatusOr<IpAddress>(address) : claimed;
  return cni::MakeError(cni::kAddressExhausted, fmt::format("requested address {} is taken", address.ToString()),
                        Message(claimed));
}

absl::StatusOr<IpAddress> ClaimAny(ledger::Tx& tx, const std::string& network, const RangeSet& set,
                                   const std::string& pod_key) {
  for (const Range& range : set) {
    absl::StatusOr<IpAddress> claimed = ClaimAroundGateway(range, [&](const IpAddress& first, const IpAddress& last) {
      return tx.ClaimNext(network, first, last, pod_key);
    });
    if (!absl::IsResourceExhausted(claimed.status())) return claimed;
  }
  return cni::MakeError(cni::kAddressExhausted,
                        fmt::format("no free address in network '{}' ({})", network, Describe(set)));
}

// Each once, without those inside another.
std::vector<IpPrefix> Outermost(std::vector<IpPrefix> subnets) {
  std::stable_sort(subnets.begin(), subnets.end(),
                   [](const IpPrefix& a, const IpPrefix& b) { return a.length < b.length; });
  std::vector<IpPrefix> outermost;
  for (const IpPrefix& subnet : subnets) {
    auto holds = [&](const IpPrefix& other) { return other.Contains(subnet.address); };
    if (std::none_of(outermost.begin(), outermost.end(), holds)) outermost.push_back(subnet.Masked());
  }
  return outermost;
}

// What the routes of a lease are checked with.
struct RoutesAsked {
  std::vector<cni::Route> routes;
  std::string where;
  std::vector<IpAddress> gateways;
};

// How every lease leaves this file, whoever chose the addresses.
absl::StatusOr<Lease> RoutedLease(const std::vector<IpAddress>& addresses, std::vector<IpPrefix> subnets,
                                  const RoutesAsked& asked, cni::Dns dns) {
  Lease lease{.subnets = Outermost(std::move(subnets)), .dns = std::move(dns)};
  HK_ASSIGN_OR_RETURN(lease.routes, UsableRoutes(asked.routes, asked.where, addresses, asked.gateways));
  const bool default_routes = lease.routes.empty();
  for (Family family : {Family::kV4, Family::kV6}) {
    auto of_family = [&](const IpAddress& address) { return address.family == family; };
    if (!default_routes || std::none_of(addresses.begin(), addresses.end(), of_family)) continue;
    lease.routes.push_back({.dst = {.address = {.family = family}, .length = 0}});
  }
  for (const IpAddress& address : addresses) lease.ips.push_back({.address = IpPrefix::Host(address)});
  return lease;
}

class LedgerIpam : public Ipam {
 public:
  absl::StatusOr<Lease> Allocate(ledger::Tx& tx, const cni::Request& request, const std::string& pod_key) override {
    const std::string& network = request.config.name;
    HK_ASSIGN_OR_RETURN(IpamConfig config, ParseIpamConfig(request.config));
    HK_ASSIGN_OR_RETURN(std::vector<IpAddress> requested, Requested(request, config));
    HK_ASSIGN_OR_RETURN(std::vector<IpAddress> held, tx.AddressesOf(network, pod_key));
    std::vector<IpAddress> addresses;
    for (const RangeSet& set : config.sets) {
      std::optional<IpAddress> wanted = FindIn(set, requested), has = FindIn(set, held);
      if (has && wanted && *has != *wanted) {
        return cni::MakeError(cni::kInvalidConfig, fmt::format("the Pod has {} already, and {} is requested",
                                                               has->ToString(), wanted->ToString()));
      }
      absl::StatusOr<IpAddress> address = has      ? *has
                                          : wanted ? ClaimRequested(tx, network, *wanted, pod_key)
                                                   : ClaimAny(tx, network, set, pod_key);
      if (!address.ok()) return address.status();
      addresses.push_back(*address);
    }
    std::vector<IpPrefix> subnets;
    RoutesAsked asked{.routes = std::move(config.routes), .where = "ipam.routes"};
    for (const RangeSet& set : config.sets) {
      for (const Range& range : set) {
        subnets.push_back(range.subnet);
        asked.gateways.push_back(range.gateway);
      }
    }
    return RoutedLease(addresses, std::move(subnets), asked, std::move(config.dns));
  }

  // Without a look at the configuration: a Pod's addresses are freed also when somebody has edited the ranges since.
  absl::Status Release(ledger::Tx& tx, const cni::Request& request, const std::string& pod_key) override {
    return tx.ReleaseAddresses(request.config.name, pod_key);
  }

  absl::Status Check(ledger::Tx& tx, const cni::Request& request, const std::string& pod_key) override {
    HK_ASSIGN_OR_RETURN(IpamConfig config, ParseIpamConfig(request.config));
    HK_ASSIGN_OR_RETURN(std::vector<IpAddress> held, tx.AddressesOf(request.config.name, pod_key));
    for (const RangeSet& set : config.sets) {
      std::optional<IpAddress> address = FindIn(set, held);
      if (!address) {
        return cni::MakeError(cni::kUnknownContainer,
                              fmt::format("Pod '{}' holds no address of {}", pod_key, Describe(set)));
      }
      if (!request.config.prev_result) continue;
      const std::vector<cni::ResultIp>& shown = request.config.prev_result->ips;
      if (std::none_of(shown.begin(), shown.end(),
                       [&](const cni::ResultIp& ip) { return ip.address.address == *address; })) {
        return cni::MakeError(cni::kUnknownContainer, fmt::format("Pod '{}' holds {}, which prevResult does not show",
                                                                  pod_key, address->ToString()));
      }
    }
    return absl::OkStatus();
  }

  bool is_delegated(const cni::Request& request) const override {
    const nlohmann::json& ipam = request.config.ipam;
    auto type = ipam.is_object() ? ipam.find("type") : ipam.end();
    return type != ipam.end() && type->is_string() && *type != "heterok8s" && *type != "host-local";
  }

  absl::StatusOr<Lease> DelegateAdd(const cni::Request& request) override {
    absl::StatusOr<Lease> lease = LeaseOf(request, RunIpamPlugin(request, "ADD"));
    if (lease.ok()) return lease;
    absl::Status undone = Delegate(request, "DEL");
    if (undone.ok()) return lease;
    return Annotate(lease.status(), fmt::format("(and the plugin's DEL failed: {})", Message(undone)));
  }

  absl::Status Delegate(const cni::Request& request, const std::string& command) override {
    return RunIpamPlugin(request, command).status();
  }

 private:
  static absl::StatusOr<Lease> LeaseOf(const cni::Request& request, absl::StatusOr<cni::Result> answer) {
    if (!answer.ok()) return answer.status();
    std::vector<IpAddress> addresses;
    std::vector<IpPrefix> subnets;
    RoutesAsked asked{.routes = std::move(answer->routes), .where = "routes"};
    for (const cni::ResultIp& ip : answer->ips) {
      addresses.push_back(ip.address.address);
      subnets.push_back(ip.address);
      if (ip.gateway) asked.gateways.push_back(*ip.gateway);
    }
    const bool has_dns = !answer->dns.nameservers.empty();
    absl::StatusOr<Lease> lease =
        RoutedLease(addresses, std::move(subnets), asked, has_dns ? std::move(answer->dns) : request.config.dns);
    if (!lease.ok()) return Annotate(lease.status(), "answer of the IPAM plugin");
    return lease;
  }
};

}  // namespace

std::unique_ptr<Ipam> NewIpam() { return std::make_unique<LedgerIpam>(); }

}  // namespace heterok8s::ipam
