// Puts heterocri between kubelet and its runtime, and takes it away again.
//
// Purpose: without draining the Node and without restarting a container: ids of host containers are the same on both
// sides, so kubelet finds all of them. By kubelet: kubelet gets another endpoint and is restarted. By socket:
// containerd moves to another socket, heterocri takes the one it had, and kubelet is not touched (its containers' shims
// go on while containerd restarts). A Node that is not Ready again in time is put back as it was; should this program
// die on the way, systemd does it. One at a time: another that is at work is kUnavailable. Threading: one thread.
// Ownership: borrows the machine. Errors: what failed, and whether the Node was put back.
//
//   NodeSwitch node({.via = Via::kKubelet}, machine, say);
//   HK_RETURN_IF_ERROR(node.Enable());
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "heteroctl/node/machine.h"
#include "heteroctl/node/options.h"
#include "heteroctl/node/rollback_timer.h"

namespace heterok8s::ctl {

// One line of `heteroctl node check`.
struct Finding {
  std::string what, state;
  bool good;
};

class NodeSwitch {
 public:
  using Say = std::function<void(const std::string&)>;
  NodeSwitch(NodeOptions options, Machine& machine, Say say);
  NodeSwitch(const NodeSwitch&) = delete;  // the timer has its options

  absl::Status Enable();
  absl::Status Disable();
  // What an enable that was cut off has done is undone: systemd's timer asks for it. Waits while that enable goes on;
  // it ends this program then.
  absl::Status Rollback();
  std::vector<Finding> Check();

 private:
  struct File {
    std::string path, text;
  };
  // The drop-ins that this way needs, as they should be now.
  absl::StatusOr<std::vector<File>> Wanted();
  std::vector<std::string> Paths() const;
  bool AnyFile();
  bool IsGoing();  // a disable was cut off
  bool InPlace(const std::vector<File>& wanted);
  absl::Status Apply(const std::vector<File>& wanted);  // writes them, and restarts what they are about
  absl::Status TakeAway();
  absl::Status KeepFormer();  // what the drop-ins say, beside them
  absl::Status ForgetFormer();
  absl::Status PutBack();         // those, or none
  absl::Status NotTheOtherWay();  // an error where the drop-ins of the other --via are there
  absl::Status Restart();
  absl::Status NoSplitPods();  // what makes disable safe; also an error when nobody knows
  // Ready within the time from `begun`, and from then on without a break; `since`: as Ready.
  absl::Status WaitReady(std::chrono::milliseconds since, std::chrono::milliseconds begun);
  // `since`: when something was changed, by Machine::Clock(); 0: nothing was.
  absl::Status Ready(std::chrono::milliseconds since);
  absl::Status NodeCondition(std::chrono::milliseconds since);

  NodeOptions options_;
  Machine& machine_;
  Say say_;
  RollbackTimer net_;
};

}  // namespace heterok8s::ctl
