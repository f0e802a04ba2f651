// Keeps the daemons of a PU running: the part of an init that a service manager is.
//
// A daemon that ends is started again 200 ms later, unless it is held. Anything whose parent died is reaped.
// Threading: one thread owns a Supervisor and runs Loop(). Ownership: borrows the descriptors during Loop() only.
// Errors: Loop() returns when it was asked to end (SIGTERM), after everything else in the PID namespace was ended.
//
//   Supervisor supervisor(spec.daemons, log_folder.get(), spec.log_prefix);
//   HK_RETURN_IF_ERROR(supervisor.Loop(control.get()));
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "common/status/status.h"
#include "common/sys/unique_fd.h"
#include "heteroctl/lab/control.h"
#include "heteroctl/lab/init_spec.h"

namespace heterok8s::lab {

class Supervisor {
 public:
  // `log_folder` is a descriptor, because the folder's path may be covered by the PU's mounts.
  Supervisor(std::vector<DaemonSpec> daemons, int log_folder, std::string log_prefix);

  // Starts every daemon and serves `control` until SIGTERM or SIGINT. Blocks these and SIGCHLD in the calling thread.
  absl::Status Loop(int control);

 private:
  using Clock = std::chrono::steady_clock;

  struct Daemon {
    DaemonSpec spec;
    DaemonState state;
    std::optional<Clock::time_point> start_at;  // when it is to be started again
    std::optional<Clock::time_point> kill_at;   // when a stop turns into SIGKILL
    std::vector<sys::UniqueFd> waiting;         // who asked for its end
  };

  Daemon* Find(const std::string& name);
  void Start(Daemon& daemon, const std::vector<std::string>& extra_env = {});
  void Reap();
  void Ended(Daemon& daemon, int wait_status);
  void Serve(int control);
  void Handle(const ControlRequest& request, sys::UniqueFd connection);
  void RunTimers();
  int NextTimerMs() const;  // -1: none
  ControlReply States() const;
  void Note(Daemon& daemon, const std::string& text);  // a line of ours in the daemon's log
  void EndAll();

  std::vector<Daemon> daemons_;
  int log_folder_;
  std::string log_prefix_;
};

}  // namespace heterok8s::lab
