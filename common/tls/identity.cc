#include "common/tls/identity.h"

#include <fmt/format.h>

namespace heterok8s::tls {
namespace {

constexpr std::string_view kScheme = "heterok8s://";
constexpr size_t kMaxNodeName = 253;  // RFC 1123 subdomain

}  // namespace

std::string_view Name(Role role) {
  switch (role) {
    case Role::kHost:
      return "host";
    case Role::kDpu:
      return "dpu";
    case Role::kCri:
      return "cri";
  }
  return "";
}

absl::StatusOr<Role> ParseRole(const std::string& text) {
  for (Role role : {Role::kHost, Role::kDpu, Role::kCri}) {
    if (text == Name(role)) return role;
  }
  return absl::InvalidArgumentError(fmt::format("unknown role '{}': one of host, dpu, cri", text));
}

absl::Status CheckNodeName(const std::string& node) {
  const bool shape = !node.empty() && node.size() <= kMaxNodeName && node.front() != '-' && node.front() != '.' &&
                     node.back() != '-' && node.back() != '.' && node.find("..") == std::string::npos;
  const bool letters = node.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789.-") == std::string::npos;
  if (shape && letters) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("Node name '{}' is no DNS name in lower case (letters, digits, '-', '.')", node));
}

absl::StatusOr<Identity> Identity::FromUri(const std::string& uri) {
  const size_t slash = uri.find('/', kScheme.size());
  if (!uri.starts_with(kScheme) || slash == std::string::npos) {
    return absl::InvalidArgumentError(fmt::format("'{}' is not heterok8s://NODE/ROLE", uri));
  }
  Identity identity{.node = uri.substr(kScheme.size(), slash - kScheme.size())};
  HK_RETURN_IF_ERROR(Annotate(CheckNodeName(identity.node), uri));
  HK_ASSIGN_OR_RETURN(identity.role, ParseRole(uri.substr(slash + 1)));
  return identity;
}

std::string Identity::Uri() const { return fmt::format("{}{}/{}", kScheme, node, Name(role)); }
std::string Identity::DnsName() const { return fmt::format("{}.{}.heterok8s", Name(role), node); }

}  // namespace heterok8s::tls
