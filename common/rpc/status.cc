#include "common/rpc/status.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "common/json/whole.h"

namespace heterok8s::rpc {
namespace {

// {"<type url>": [bytes…]}: payloads may be binary, JSON text may not.
std::string EncodePayloads(const absl::Status& status) {
  nlohmann::json payloads = nlohmann::json::object();
  status.ForEachPayload([&](auto type, const absl::Cord& value) {
    const std::string text(value);
    payloads[std::string(type.data(), type.size())] = std::vector<uint8_t>(text.begin(), text.end());
  });
  return payloads.dump();  // "{}" at least: see IsAnswer
}

// Nothing for what EncodePayloads does not write: half a payload would be another one.
std::optional<std::string> BytesOf(const nlohmann::json& list) {
  if (!list.is_array()) return std::nullopt;
  std::string bytes;
  for (const nlohmann::json& item : list) {
    absl::StatusOr<uint8_t> byte = Whole<uint8_t>(item, "byte");
    if (!byte.ok()) return std::nullopt;
    bytes += static_cast<char>(*byte);
  }
  return bytes;
}

void DecodePayloads(const std::string& details, absl::Status& status) {
  const nlohmann::json payloads = nlohmann::json::parse(details, nullptr, /*allow_exceptions=*/false);
  if (!payloads.is_object()) return;
  for (const auto& [type, value] : payloads.items()) {
    if (std::optional<std::string> bytes = BytesOf(value)) status.SetPayload(type, absl::Cord(*bytes));
  }
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), Message(status), EncodePayloads(status));
}

bool IsAnswer(const grpc::Status& status) { return status.ok() || !status.error_details().empty(); }

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  if (!status.error_details().empty()) DecodePayloads(status.error_details(), result);
  return result;
}

}  // namespace heterok8s::rpc
