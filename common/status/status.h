// absl::Status helpers shared by every program.
//
// Purpose: propagate failures without exceptions, add what each layer alone knows, turn errno into a code.
// Threading: pure functions. Errors: none of their own.
//
//   absl::StatusOr<Link> FindUplink(Netlink& netlink, const std::string& name) {
//     HK_ASSIGN_OR_RETURN(std::vector<Link> links, netlink.Links());
//     ...
//     return absl::NotFoundError(fmt::format("no link named '{}'", name));
//   }
#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <string>
#include <string_view>
#include <utility>

namespace heterok8s {

// "<context>: <message>", same code and payloads. OK stays OK.
absl::Status Annotate(const absl::Status& status, std::string_view context);

// The status for `error_number` (an errno value) with the text "<context>: <strerror>".
// ENOENT, ENODEV, ESRCH, ENXIO, ENETDOWN -> kNotFound; EEXIST -> kAlreadyExists; EPERM, EACCES ->
// kPermissionDenied; EINVAL -> kInvalidArgument; EADDRINUSE, EBUSY -> kFailedPrecondition; EAGAIN, ECONNREFUSED,
// ECONNRESET, EPIPE -> kUnavailable; ETIMEDOUT -> kDeadlineExceeded; ENOSPC, ENOBUFS, ENOMEM, EMFILE, ENFILE ->
// kResourceExhausted; EOPNOTSUPP, ENOSYS -> kUnimplemented; anything else -> kInternal.
absl::Status ErrnoToStatus(int error_number, std::string_view context);

// Debian's Abseil has a string_view of its own; this is the message as a std::string.
std::string Message(const absl::Status& status);

// "NOT_FOUND: no link named 'eth0'", or "OK".
std::string ToString(const absl::Status& status);

}  // namespace heterok8s

#define HK_STATUS_CONCAT_INNER(a, b) a##b
#define HK_STATUS_CONCAT(a, b) HK_STATUS_CONCAT_INNER(a, b)

#define HK_RETURN_IF_ERROR(expr)                                              \
  do {                                                                        \
    if (::absl::Status hk_status = (expr); !hk_status.ok()) return hk_status; \
  } while (false)

#define HK_ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                             \
  if (!tmp.ok()) return tmp.status();            \
  lhs = *std::move(tmp)

// HK_ASSIGN_OR_RETURN(std::vector<Link> links, netlink.Links());
#define HK_ASSIGN_OR_RETURN(lhs, expr) HK_ASSIGN_OR_RETURN_IMPL(HK_STATUS_CONCAT(hk_or_, __LINE__), lhs, expr)
