#include "common/status/status.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>

namespace heterok8s {
namespace {

absl::StatusCode CodeOf(int error_number) {
  switch (error_number) {
    case ENOENT:
    case ENODEV:
    case ESRCH:
    case ENXIO:
    case ENETDOWN:
      return absl::StatusCode::kNotFound;
    case EEXIST:
      return absl::StatusCode::kAlreadyExists;
    case EPERM:
    case EACCES:
      return absl::StatusCode::kPermissionDenied;
    case EINVAL:
      return absl::StatusCode::kInvalidArgument;
    case EADDRINUSE:
    case EBUSY:
      return absl::StatusCode::kFailedPrecondition;
    case EAGAIN:
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
      return absl::StatusCode::kUnavailable;
    case ETIMEDOUT:
      return absl::StatusCode::kDeadlineExceeded;
    case ENOSPC:
    case ENOBUFS:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      return absl::StatusCode::kResourceExhausted;
    case EOPNOTSUPP:
    case ENOSYS:
      return absl::StatusCode::kUnimplemented;
    default:
      return absl::StatusCode::kInternal;
  }
}

}  // namespace

std::string Message(const absl::Status& status) {
  return std::string(status.message().data(), status.message().size());
}

std::string ToString(const absl::Status& status) {
  if (status.ok()) return "OK";
  return fmt::format("{}: {}", absl::StatusCodeToString(status.code()), Message(status));
}

absl::Status Annotate(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  absl::Status annotated(status.code(), fmt::format("{}: {}", context, Message(status)));
  // Payloads are how an outer edge finds its own error code again (a CNI code, for one).
  status.ForEachPayload(
      [&](absl::string_view type, const absl::Cord& payload) { annotated.SetPayload(type, payload); });
  return annotated;
}

absl::Status ErrnoToStatus(int error_number, std::string_view context) {
  char text[128];
  return absl::Status(CodeOf(error_number),
                      fmt::format("{}: {}", context, strerror_r(error_number, text, sizeof text)));
}

}  // namespace heterok8s
