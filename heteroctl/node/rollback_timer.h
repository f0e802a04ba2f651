// A timer of systemd's that puts a Node back, for a shell that is lost with `heteroctl node enable` in it.
//
// Purpose: it runs `heteroctl node rollback`, which does nothing while the enable goes on (Machine::BeTheOnlyOne). So
// the time of the timer need not be longer than an enable may take. Threading: one thread. Ownership: borrows options
// and machine; the timer is systemd's and outlives this. Errors: systemd's own words.
//
//   RollbackTimer net(options, machine);
//   HK_RETURN_IF_ERROR(net.Arm());
//   absl::Cleanup disarm = [&] { net.Disarm(); };
#pragma once

#include "heteroctl/node/machine.h"
#include "heteroctl/node/options.h"

namespace heterok8s::ctl {

class RollbackTimer {
 public:
  RollbackTimer(const NodeOptions& options, Machine& machine) : options_(options), machine_(machine) {}

  absl::Status Arm();
  // An enable that was killed has left it; until it runs, or the Node is switched to an end, nobody knows how far that
  // got.
  bool IsArmed();
  // Also ends a rollback that waits for us: to be called by the only one at work.
  void Disarm();

 private:
  const NodeOptions& options_;
  Machine& machine_;
};

}  // namespace heterok8s::ctl
