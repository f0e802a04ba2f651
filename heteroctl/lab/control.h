// Talking to a PU's init: one request and one reply, each one packet of JSON over a Unix SOCK_SEQPACKET.
//
//   {"act":"status"}                                         -> {"daemons":[…]}
//   {"act":"start","daemon":"heterod","env":["A=b"]}          -> when it has been started; env for this one start only
//   {"act":"stop","daemon":"heterod"}                        -> when it has ended; it stays ended until "start"
//   {"act":"kill","daemon":"heterod","signal":9,"hold":true} -> for signals that end a program when it has ended, else
//                                                               at once; without "hold" it is started again after 200
//                                                               ms
// A reply is {"daemons":[…]} (the state after the action) or {"error":"…"}.
//
// Threading: Ask may be called from any thread. Errors: kUnavailable when no init listens, kDeadlineExceeded,
// kFailedPrecondition with the init's own words.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "common/status/status.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::lab {

struct ControlRequest {
  std::string act = "status";
  std::string daemon;
  int signal = 0;
  bool hold = false;             // do not start it again
  std::vector<std::string> env;  // "KEY=value", on top of the daemon's own, until it ends
};

struct DaemonState {
  std::string name;
  int pid = -1;  // as the PU knows it; -1: not running
  bool held = false;
  int starts = 0;        // 1 after the first
  std::string last_end;  // "signal 9", "exit 1"; empty: never ended
};

struct ControlReply {
  std::string error;
  std::vector<DaemonState> daemons;
};

absl::StatusOr<std::vector<DaemonState>> Ask(const std::string& socket_path, const ControlRequest& request,
                                             std::chrono::milliseconds deadline);

// The init's side.
absl::StatusOr<sys::UniqueFd> ListenControl(const std::string& socket_path);
absl::StatusOr<ControlRequest> ReadRequest(int connection);
void SendReply(int connection, const ControlReply& reply);

}  // namespace heterok8s::lab
