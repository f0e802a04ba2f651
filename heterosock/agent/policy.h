// Who may share memory with whom.
//
// The two ends of a connection within one Pod always may. Everything else must be allowed by a chain: a list of groups
// of which neighbours may talk ("web envoy db" allows web-envoy and envoy-db, in both directions). A group is a name
// for whatever a selector finds:
//   cgroup:GLOB  the process's cgroup path; * also matches '/'
//   pod:UID      a Pod
//   netns:PATH   a network namespace, looked up when the policy is read
// Threading: values; Allows() may run on any thread. Errors: kInvalidArgument names the line that is wrong.
//
//   HK_ASSIGN_OR_RETURN(Policy policy, Policy::Parse({"web = cgroup:/system.slice/web*", "db = pod:1b2c…"}, {"web
//   db"}));
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/status/status.h"
#include "heterosock/agent/pairing.h"

namespace heterok8s::heterosock::agent {

class Policy {
 public:
  static absl::StatusOr<Policy> Parse(const std::vector<std::string>& groups, const std::vector<std::string>& chains);

  bool Allows(const Domain& a, const Domain& b) const;
  // Names of the groups that hold `domain`, for people.
  std::vector<std::string> GroupsOf(const Domain& domain) const;

 private:
  struct Selector {
    std::string cgroup_glob, pod_uid;
    uint64_t netns_cookie = 0;
    bool Matches(const Domain& domain) const;
  };
  std::multimap<std::string, Selector> groups_;               // a name may have several
  std::set<std::pair<std::string, std::string>> neighbours_;  // both orders
};

// The same Pod, on whichever PU: by Pod UID, and by network namespace for what has none.
bool SamePod(const Domain& a, const Domain& b);

}  // namespace heterok8s::heterosock::agent
