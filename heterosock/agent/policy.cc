#include "heterosock/agent/policy.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <sstream>

#include "common/sys/netns.h"

namespace heterok8s::heterosock::agent {
namespace {

std::string Trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t"), last = text.find_last_not_of(" \t");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

}  // namespace

bool SamePod(const Domain& a, const Domain& b) {
  // Two Pods in the host's namespace (hostNetwork) are two Pods.
  if (!a.pod_uid.empty() || !b.pod_uid.empty()) return a.pod_uid == b.pod_uid;
  return a.netns_cookie == b.netns_cookie;
}

bool Policy::Selector::Matches(const Domain& domain) const {
  if (!cgroup_glob.empty()) return fnmatch(cgroup_glob.c_str(), domain.cgroup.c_str(), 0) == 0;
  if (!pod_uid.empty()) return domain.pod_uid == pod_uid;
  return domain.netns_cookie == netns_cookie;
}

absl::StatusOr<Policy> Policy::Parse(const std::vector<std::string>& groups, const std::vector<std::string>& chains) {
  Policy policy;
  for (const std::string& line : groups) {
    const size_t equals = line.find('=');
    if (equals == std::string::npos) return absl::InvalidArgumentError(fmt::format("'{}' is no NAME = SELECTOR", line));
    const std::string name = Trimmed(line.substr(0, equals)), text = Trimmed(line.substr(equals + 1));
    const size_t colon = text.find(':');
    const std::string kind = text.substr(0, colon), value = colon == std::string::npos ? "" : text.substr(colon + 1);
    if (name.empty() || name.find_first_of(" \t") != std::string::npos || value.empty()) {
      return absl::InvalidArgumentError(fmt::format("'{}' is no NAME = SELECTOR", line));
    }
    Selector selector;
    if (kind == "cgroup" && value.front() == '/') {
      selector.cgroup_glob = value;
    } else if (kind == "pod") {
      selector.pod_uid = value;
    } else if (kind == "netns") {
      absl::StatusOr<sys::NetnsRef> netns = sys::NetnsRef::Open(value);
      if (!netns.ok()) return Annotate(netns.status(), line);
      HK_ASSIGN_OR_RETURN(selector.netns_cookie, sys::NetnsCookie(*netns));
    } else {
      return absl::InvalidArgumentError(fmt::format("'{}': a selector is cgroup:/GLOB, pod:UID or netns:PATH", line));
    }
    policy.groups_.emplace(name, selector);
  }
  for (const std::string& line : chains) {
    std::istringstream words(line);
    std::string former;
    int count = 0;
    for (std::string name; words >> name; former = name, ++count) {
      if (!policy.groups_.contains(name)) {
        return absl::InvalidArgumentError(fmt::format("chain '{}': no group is named '{}'", line, name));
      }
      if (count == 0) continue;
      policy.neighbours_.emplace(former, name);
      policy.neighbours_.emplace(name, former);
    }
    if (count < 2) return absl::InvalidArgumentError(fmt::format("chain '{}' has less than two groups", line));
  }
  return policy;
}

std::vector<std::string> Policy::GroupsOf(const Domain& domain) const {
  std::vector<std::string> names;
  for (const auto& [name, selector] : groups_) {
    if (selector.Matches(domain) && (names.empty() || names.back() != name)) names.push_back(name);
  }
  return names;
}

bool Policy::Allows(const Domain& a, const Domain& b) const {
  if (SamePod(a, b)) return true;
  const std::vector<std::string> of_b = GroupsOf(b);
  for (const std::string& first : GroupsOf(a)) {
    for (const std::string& second : of_b) {
      if (neighbours_.contains({first, second})) return true;
    }
  }
  return false;
}

}  // namespace heterok8s::heterosock::agent
