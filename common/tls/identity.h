// Who a certificate speaks for: one role on one Node.
//
// A certificate of ours carries two names: the URI SAN "heterok8s://NODE/ROLE", which servers check, and the DNS SAN
// "ROLE.NODE.heterok8s", which clients check as the host name of the server they meant to reach.
// Threading: values. Errors: kInvalidArgument that names the text.
//
//   HK_ASSIGN_OR_RETURN(Identity peer, Identity::FromUri("heterok8s://demo/host"));
#pragma once

#include <string>

#include "common/status/status.h"

namespace heterok8s::tls {

enum class Role { kHost, kDpu, kCri };
std::string_view Name(Role role);  // "host", "dpu", "cri"
absl::StatusOr<Role> ParseRole(const std::string& text);

struct Identity {
  std::string node;
  Role role = Role::kHost;

  static absl::StatusOr<Identity> FromUri(const std::string& uri);
  std::string Uri() const;      // "heterok8s://demo/host"
  std::string DnsName() const;  // "host.demo.heterok8s"
  auto operator<=>(const Identity&) const = default;
};

// A Node's name is a DNS subdomain in lower case, as Kubernetes demands.
absl::Status CheckNodeName(const std::string& node);

}  // namespace heterok8s::tls
