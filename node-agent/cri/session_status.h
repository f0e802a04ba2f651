// Tells the client of an Exec or Attach session that the session was cut.
//
// Purpose: a command's result comes last, on a stream of its own (v4 and v5 of the Kubernetes streaming protocol: a
// metav1.Status as JSON). kubectl takes a stream that ends without one for success (client-go,
// tools/remotecommand/errorstream.go), so a session whose runtime or DPU went away would look like a command that ended
// well. This watches a session for its result, and has a failure ready for a client that will not get it any more.
// What the runtime sends is passed on unchanged, but whole frame by whole frame, so that there is a place for another.
// Anything that is not understood (another protocol, a frame that is too long) is passed on as it comes, unwatched.
// Threading: FromClient on one thread, the others on another; the client's bytes are shown before they are sent on.
// Ownership: none. Errors: none; in doubt nothing is added.
//
//   SessionStatus status(request);
//   status.FromClient(piece);  …  send(status.FromRuntime(piece));  …  send(status.Ending("the DPU was lost"));
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "node-agent/cri/spdy.h"

namespace heterok8s::cri {

class SessionStatus {
 public:
  // `request`: the head of the client's request, and what came with it. Only of a client that asks for SPDY are the
  // bytes looked at: of another no stream has to be known.
  explicit SessionStatus(std::string_view request);
  // What the client sends next.
  void FromClient(std::string_view bytes);
  // The runtime's bytes from its response's head on. Returns what is to be sent to the client now.
  std::string FromRuntime(std::string_view bytes);
  // The runtime says no more. Returns a failure with `why`, or nothing when the client had its result.
  std::string Ending(const std::string& why);

 private:
  enum class Protocol { kUnknown, kSpdy, kWebSocket, kOpaque };
  enum class Client { kWatched, kDone };

  std::string Unwatched();
  static Protocol ProtocolOf(std::string_view head);
  // The size of the frame that `bytes` begin with; 0 when it is not whole. Notes the result when that is what it is.
  size_t TakeSpdyFrame(std::string_view bytes);
  size_t TakeWebSocketFrame(std::string_view bytes);
  void ReadClient();
  // How many of `bytes`, which begin with a frame's head, belong to it; 0 when more are needed.
  size_t TakeClientFrame(std::string_view bytes);

  Protocol protocol_ = Protocol::kUnknown;
  std::string held_;                       // of the runtime's bytes: less than a frame
  bool had_result_ = false;                // or its stream has ended
  bool in_message_ = false;                // WebSocket: the message's other frames are to come
  std::atomic<uint32_t> error_stream_{0};  // SPDY: the client's; 0 before it is known

  Client client_ = Client::kDone;
  std::string client_held_;
  uint64_t client_skip_ = 0;  // bytes that follow the held ones and are not looked at
  std::unique_ptr<SpdyHeaders> headers_;
};

}  // namespace heterok8s::cri
