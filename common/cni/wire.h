// What heterok8s-cni and heterod say to each other over the Unix socket, and the files in which a DEL waits for
// heterod.
//
// Frame: a length, 4 bytes, little-endian, at most kMaxFrameBytes; then that many bytes of JSON in UTF-8.
// One call per connection: the shim sends one frame, heterod answers with one frame and closes.
//   request  {"version": 1, "environment": {"CNI_COMMAND": "ADD", ...}, "stdin": "<the network configuration as read>"}
//   reply    {"exit": 0, "stdout": "<printed as it is>"}
// "environment" holds every CNI_* variable and TRACEPARENT, TRACESTATE (in either case), PATH. A reader ignores keys it
// does not know and refuses another "version". heterod serves uid 0 only.
//
// Queue: a DEL that cannot reach heterod is left in the configuration's queueDir, one file per attachment, named by
// QueueFileName, whose text is the request's JSON (no length). It appears by rename, so a reader sees all of it; a name
// that does not end in kQueueSuffix is a file in the making. heterod removes a file after it has carried the DEL out.
//
// Threading: pure functions and one descriptor per call. Errors: kDeadlineExceeded, kUnavailable when the other side
// closed early, kInvalidArgument for a frame that is not as above.
//
//   HK_RETURN_IF_ERROR(WriteFrame(fd, *EncodeRequest({environment, stdin_text}), deadline));
//   HK_ASSIGN_OR_RETURN(std::string text, ReadFrame(fd, deadline));
//   HK_ASSIGN_OR_RETURN(WireReply reply, DecodeReply(text));
#pragma once

#include <chrono>
#include <map>
#include <string>

#include "common/cni/types.h"
#include "common/status/status.h"

namespace heterok8s::cni {

inline constexpr int kWireVersion = 1;
inline constexpr size_t kMaxStdinBytes = 4u << 20;
// A configuration of kMaxStdinBytes that needs an escape for every byte still fits.
inline constexpr size_t kMaxFrameBytes = 26u << 20;

struct WireRequest {
  std::map<std::string, std::string> environment;
  std::string stdin_text;
};

struct WireReply {
  int exit_code = 0;
  std::string stdout_text;
};

// True for the variables that travel.
bool IsWireVariable(std::string_view name);

// kInvalidEnvironment (CNI code) when a value is not UTF-8.
absl::StatusOr<std::string> EncodeRequest(const WireRequest& request);
absl::StatusOr<WireRequest> DecodeRequest(const std::string& text);
std::string EncodeReply(const WireReply& reply);
absl::StatusOr<WireReply> DecodeReply(const std::string& text);

using Deadline = std::chrono::steady_clock::time_point;
absl::Status WriteFrame(int fd, std::string_view text, Deadline deadline);
absl::StatusOr<std::string> ReadFrame(int fd, Deadline deadline);

inline constexpr std::string_view kQueueSuffix = ".del";
// The same for every call about one attachment; never longer than a file name may be.
std::string QueueFileName(const std::string& network, const std::string& container_id, const std::string& ifname);

}  // namespace heterok8s::cni
