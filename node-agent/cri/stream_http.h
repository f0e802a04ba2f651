// The little of HTTP that passing on a streaming connection needs: its first request's head, and a runtime's URL.
//
// Purpose: kubelet's upgrade request comes to our URL and goes on to the runtime's; everything after it is opaque.
// Threading: pure functions. Errors: kInvalidArgument for what is no such request or URL; kNotFound is the caller's.
//
//   HK_ASSIGN_OR_RETURN(StreamRequest request, ParseStreamRequest(head));
//   std::string onward = ForwardedHead(request, "/exec/TOKEN-OF-THE-RUNTIME");
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/status/status.h"

namespace heterok8s::cri {

// The head of a request with all its fields, which no client of ours comes near; more is refused.
inline constexpr size_t kMaxStreamHead = 64 << 10;

struct StreamRequest {
  std::string method;  // GET or POST
  std::string path;    // "/exec/TOKEN"
  std::string query;   // "?command=…" or empty
  std::string rest;    // from the version on, with all that was read after the head
};

// `head` has at least the empty line that ends the head.
absl::StatusOr<StreamRequest> ParseStreamRequest(std::string_view head);
// The same request to `path`.
std::string ForwardedHead(const StreamRequest& request, const std::string& path);
// A whole response; `status` as in "404 Not Found".
std::string PlainResponse(const std::string& status, const std::string& text);

struct RuntimeUrl {
  std::string address;  // an IP address of loopback
  uint16_t port = 0;
  std::string path;  // "/exec/TOKEN"
};
// The URL of a runtime's streaming server. kInvalidArgument for another scheme than http, and for a server that is not
// on loopback: what is said there is not protected by TLS, so it must not leave the machine.
absl::StatusOr<RuntimeUrl> ParseRuntimeUrl(const std::string& url);

}  // namespace heterok8s::cri
