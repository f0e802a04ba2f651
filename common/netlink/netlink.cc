#include "common/netlink/netlink.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

namespace heterok8s::netlink {
namespace {

template <typename... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <typename... F>
Overloaded(F...) -> Overloaded<F...>;

std::string Text(const Address& address) { return fmt::format("{} dev {}", address.prefix.ToString(), address.link); }

std::string Text(const Route& route) {
  std::string text = route.destination.ToString();
  if (route.via) text += " via " + route.via->ToString();
  if (route.link != 0) text += fmt::format(" dev {}", route.link);
  if (route.table != kTableMain) text += fmt::format(" table {}", route.table);
  return text;
}

std::string Text(const Rule& rule) {
  std::string text = fmt::format("pref {} v{}", rule.priority, static_cast<int>(rule.family));
  if (rule.fwmark) text += fmt::format(" fwmark {:#x}/{:#x}", *rule.fwmark, rule.fwmask);
  if (!rule.iif.empty()) text += " iif " + rule.iif;
  return text + fmt::format(" table {}", rule.table);
}

std::string Text(const Neighbor& neighbor) {
  return fmt::format("{} dev {}", neighbor.address.ToString(), neighbor.link);
}

std::string Text(const SetLink& set) {
  std::string text = set.by_name.empty() ? fmt::format("{}", set.link) : fmt::format("'{}'", set.by_name);
  if (set.netns_fd >= 0) text += " namespace";
  if (set.name) text += fmt::format(" name '{}'", *set.name);
  if (set.mac) text += " mac " + *set.mac;
  if (set.mtu) text += fmt::format(" mtu {}", *set.mtu);
  if (set.alias) text += fmt::format(" alias '{}'", *set.alias);
  if (set.up) text += *set.up ? " up" : " down";
  return text;
}

}  // namespace

std::string Describe(const Change& change) {
  return std::visit(
      Overloaded{
          [](const AddVeth& c) { return fmt::format("create veth '{}' with peer '{}'", c.end.name, c.peer.name); },
          [](const AddIfb& c) { return fmt::format("create ifb '{}'", c.name); },
          [](const DeleteLink& c) { return fmt::format("delete link {}", c.link); },
          [](const SetLink& c) { return "set link " + Text(c); },
          [](const AddAltName& c) { return fmt::format("add alternative name '{}' to link {}", c.name, c.link); },
          [](const AddAddress& c) { return "add address " + Text(c.address); },
          [](const ReplaceAddress& c) { return "replace address " + Text(c.address); },
          [](const DeleteAddress& c) { return "delete address " + Text(c.address); },
          [](const AddRoute& c) { return "add route " + Text(c.route); },
          [](const ReplaceRoute& c) { return "replace route " + Text(c.route); },
          [](const DeleteRoute& c) { return "delete route " + Text(c.route); },
          [](const AddRule& c) { return "add rule " + Text(c.rule); },
          [](const DeleteRule& c) { return "delete rule " + Text(c.rule); },
          [](const ReplaceNeighbor& c) { return "replace neighbour " + Text(c.neighbor); },
          [](const DeleteNeighbor& c) { return "delete neighbour " + Text(c.neighbor); },
          [](const ReplaceTbf& c) { return fmt::format("limit link {} to {} bytes/s", c.link, c.tbf.rate_bytes); },
          [](const DeleteRootQueue& c) { return fmt::format("delete the root queue of link {}", c.link); },
          [](const AddRedirect& c) { return fmt::format("redirect what arrives on link {} to link {}", c.link, c.to); },
          [](const DeleteRedirect& c) { return fmt::format("delete the redirect of link {}", c.link); },
      },
      change);
}

std::string_view KindOf(const Change& change) {
  static constexpr std::string_view kNames[] = {"AddVeth",         "AddIfb",          "DeleteLink",     "SetLink",
                                                "AddAltName",      "AddAddress",      "ReplaceAddress", "DeleteAddress",
                                                "AddRoute",        "ReplaceRoute",    "DeleteRoute",    "AddRule",
                                                "DeleteRule",      "ReplaceNeighbor", "DeleteNeighbor", "ReplaceTbf",
                                                "DeleteRootQueue", "AddRedirect",     "DeleteRedirect"};
  static_assert(std::size(kNames) == std::variant_size_v<Change>);
  return kNames[change.index()];
}

absl::StatusOr<std::optional<Link>> FindIfThere(Netlink& netlink, const std::string& name) {
  absl::StatusOr<Link> link = netlink.FindLink(name);
  if (link.ok()) return std::optional<Link>(*std::move(link));
  if (absl::IsNotFound(link.status())) return std::optional<Link>();
  return link.status();
}

absl::Status WaitForLocalRoutes(Netlink& netlink, int link, const std::vector<IpAddress>& addresses,
                                std::chrono::milliseconds timeout) {
  // The kernel announces addresses and routes, but a subscription costs more than asking once, which is the usual case.
  // Asking takes locks that the work queue waits for, so the pauses grow.
  constexpr auto kLongestPause = std::chrono::microseconds(20000);
  auto pause = std::chrono::microseconds(200);
  auto deadline = std::chrono::steady_clock::now() + timeout;
  while (true) {
    HK_ASSIGN_OR_RETURN(std::vector<Route> routes, netlink.Routes(kTableLocal, link, Family::kV6));
    auto missing = std::find_if(addresses.begin(), addresses.end(), [&](const IpAddress& address) {
      if (address.family == Family::kV4) return false;
      return std::none_of(routes.begin(), routes.end(), [&](const Route& route) {
        return route.type == RouteType::kLocal && route.destination == IpPrefix::Host(address);
      });
    });
    if (missing == addresses.end()) return absl::OkStatus();
    if (std::chrono::steady_clock::now() >= deadline) {
      return absl::DeadlineExceededError(
          fmt::format("{} of link {} has no local route after {} ms", missing->ToString(), link, timeout.count()));
    }
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, kLongestPause);
  }
}

}  // namespace heterok8s::netlink
