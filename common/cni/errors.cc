#include <fmt/format.h>

#include <charconv>

#include "common/cni/types.h"

namespace heterok8s::cni {
namespace {

// The CNI code and the details travel with the Status as "<code>\n<details>".
constexpr char kPayload[] = "heterok8s/cni-error";

struct Payload {
  int code = kInternal;
  std::string details;
};

std::optional<Payload> PayloadOf(const absl::Status& status) {
  absl::optional<absl::Cord> cord = status.GetPayload(kPayload);
  if (!cord.has_value()) return std::nullopt;
  std::string text(*cord);
  Payload payload;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), payload.code);
  if (error != std::errc()) return std::nullopt;
  size_t newline = static_cast<size_t>(end - text.data());
  if (newline < text.size()) payload.details = text.substr(newline + 1);
  return payload;
}

// For code that looks at the absl code only (retry or not, exists or not).
absl::StatusCode AbslCode(ErrorCode code) {
  switch (code) {
    case kIncompatibleVersion:
    case kUnsupportedField:
    case kInvalidEnvironment:
    case kDecodingFailure:
    case kInvalidConfig:
    case kInvalidNetns:
      return absl::StatusCode::kInvalidArgument;
    case kUnknownContainer:
      return absl::StatusCode::kNotFound;
    case kTryAgainLater:
    case kNotAvailable:
    case kNotAvailableLimited:
    case kDpuUnavailable:
      return absl::StatusCode::kUnavailable;
    case kAddressExhausted:
      return absl::StatusCode::kResourceExhausted;
    case kHostPortTaken:
    case kInterfaceExists:
      return absl::StatusCode::kAlreadyExists;
    case kIoFailure:
    case kInternal:
      break;
  }
  return absl::StatusCode::kInternal;
}

}  // namespace

absl::Status MakeError(ErrorCode code, std::string message, std::string details) {
  absl::Status status(AbslCode(code), message);
  status.SetPayload(kPayload, absl::Cord(fmt::format("{}\n{}", static_cast<int>(code), details)));
  return status;
}

int CodeOf(const absl::Status& status) {
  if (status.ok()) return 0;
  if (std::optional<Payload> payload = PayloadOf(status)) return payload->code;
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return kInvalidConfig;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kAborted:
      return kTryAgainLater;
    default:
      return kInternal;
  }
}

std::string ErrorJson(const absl::Status& status, const std::string& cni_version) {
  nlohmann::ordered_json json = {{"cniVersion", IsSupported(cni_version) ? cni_version : kLatestVersion},
                                 {"code", CodeOf(status)},
                                 {"msg", Message(status)}};
  if (std::optional<Payload> payload = PayloadOf(status); payload && !payload->details.empty()) {
    json["details"] = payload->details;
  }
  // Messages quote what others sent us; bytes that are not UTF-8 must not turn an error into an exception.
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace heterok8s::cni
