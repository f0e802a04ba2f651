// heterod's side of heterok8s-cni: bytes of a CNI call in, CNI result or error out.
//
// Purpose: listen on a Unix socket (mode 0600, uid 0 only), carry each call out through attach::Engine, answer in the
// shape of the call's version; before that and meanwhile carry out the DELs that the shim queued while nobody listened
// (common/cni/wire.h describes both).
// Calls about one attachment run one after the other, in the order they are understood; others run in parallel on
// `workers` threads. An ADD whose caller has gone is not begun, and is undone when its caller was gone before the
// answer was out: nobody else would know of it. Threading: Start and Stop from one thread; `on_call` is called from any
// worker. Ownership: borrows the engine. Errors: Start says what is wrong with the socket or the queue folder; errors
// of calls go to their callers.
//
//   Server server({.socket_path = "/run/heterok8s/cni.sock", .queue_dir = "/var/lib/heterok8s/cni-queue"}, engine);
//   HK_RETURN_IF_ERROR(server.Start());   // replays the queue first, then accepts
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "common/cni/types.h"
#include "node-agent/attach/engine.h"

namespace heterok8s::cni_server {

// One finished call, for metrics.
struct CallReport {
  cni::Command command = cni::Command::kVersion;
  int code = 0;                          // 0, or the CNI error code
  std::chrono::microseconds duration{};  // from the call's arrival, waiting for a worker included
  bool replayed = false;                 // from the queue
};

struct Options {
  std::string socket_path;
  std::string queue_dir;  // made when missing
  int workers = 16;       // calls carried out at once
  // Calls that wait for a worker; the next ones wait in the kernel's backlog, and then in the shim's connect.
  int max_waiting = 256;
  // From connection to complete request. A shim sends at once; this frees the worker of one that was stopped.
  std::chrono::milliseconds read_timeout{5000};
  std::function<void(const CallReport&)> on_call;
};

class Server {
 public:
  Server(Options options, attach::Engine& engine);
  ~Server();  // stops
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  absl::Status Start();
  // Accepts no more, lets running calls end, and returns. OK to call twice.
  void Stop();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace heterok8s::cni_server
