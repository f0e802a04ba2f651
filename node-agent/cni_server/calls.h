// A CNI call from its decoded request to its reply: parse, order, carry out by the engine, format, report.
//
// Threading: thread-safe. Ownership: borrows the engine. Errors: become the reply.
//
//   Calls calls(engine, queue_dir, on_call);
//   absl::Status served = calls.Serve(wire_request, {.arrived = now, .is_gone = [fd] { return IsGone(fd); },
//                                                    .deliver = [fd](const cni::WireReply& r) { return Send(fd, r);
//                                                    }});
#pragma once

#include <functional>
#include <string>

#include "common/cni/wire.h"
#include "common/sys/keyed_mutex.h"
#include "node-agent/attach/engine.h"
#include "node-agent/cni_server/server.h"

namespace heterok8s::cni_server {

// How a call reaches its caller.
struct Caller {
  std::chrono::steady_clock::time_point arrived;
  std::function<bool()> is_gone;
  // False when the caller did not get it.
  std::function<bool(const cni::WireReply&)> deliver;
  // Of a queued DEL: the file that it was read from. Empty for a call over the socket.
  std::string queue_file;
};

class Calls {
 public:
  Calls(attach::Engine& engine, std::string queue_dir, std::function<void(const CallReport&)> on_call)
      : engine_(engine), queue_dir_(std::move(queue_dir)), on_call_(std::move(on_call)) {}

  // Returns after the reply is delivered and, for an ADD that nobody heard of, undone. OK says that the engine did it.
  absl::Status Serve(const cni::WireRequest& wire, const Caller& caller);

 private:
  absl::StatusOr<std::string> CarryOut(const cni::Request& request, const Caller& caller);
  absl::StatusOr<std::string> Add(const cni::Request& request, const Caller& caller);
  absl::Status SettleQueued(const std::string& queue_file);
  std::string QueuePath(const cni::Request& request) const;

  attach::Engine& engine_;
  const std::string queue_dir_;
  const std::function<void(const CallReport&)> on_call_;
  sys::KeyedMutex attachments_;
};

}  // namespace heterok8s::cni_server
