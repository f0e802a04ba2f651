#include "node-agent/podnet/podnet.h"

namespace heterok8s::podnet {
namespace {

constexpr char kHolderPayload[] = "heterok8s.io/host-port-holder";

}  // namespace

IpAddress NodeGateway(Family family) { return *IpAddress::Parse(family == Family::kV4 ? kGatewayV4 : kGatewayV6); }

absl::Status HostPortTaken(std::string message, const std::string& holder) {
  absl::Status status = absl::AlreadyExistsError(message);
  status.SetPayload(kHolderPayload, absl::Cord(holder));
  return status;
}

std::optional<std::string> HostPortHolder(const absl::Status& status) {
  auto payload = status.GetPayload(kHolderPayload);
  return payload.has_value() ? std::optional(std::string(*payload)) : std::nullopt;
}

}  // namespace heterok8s::podnet
