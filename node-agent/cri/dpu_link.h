// heterocri's view of the DPU: is it there, what runs on it, and what must no longer.
//
// Purpose: whether the DPU is alive is heterod's to say, by its heartbeats (heterod_lease). One thread asks the DPU's
// runtime every `interval` and brings the state of its containers into the table. When the lease is over, the
// containers are shown as ended (reason DPULost), which begins a new epoch. A DPU that is alive while its runtime does
// not answer for `duration` is another state: what runs there goes on and stays listed, nothing new is put there, no
// epoch begins. While heterod on the host is away, answers of the DPU's own heterod renew the lease, whatever becomes
// of its runtime and however slow that is: a second thread asks it meanwhile. What was shown as ended has ended: a DPU
// that returns is first rid of what still runs of older epochs (Fence), and only then counts as there; then the last
// lines of their logs come to the host, and the containers are removed on the DPU. They stay listed as lost until
// kubelet removes them, which then has nothing left to do there. An outage that is shorter than the lease begins no
// epoch and ends nothing. Twins without a sandbox on the host, and stopped ones that still run, are put right at each
// round.
// Threading: thread-safe. Ownership: borrows table, mirror, tasks and the clients, which must outlive it. Errors:
// logged; LastError has the latest.
//
//   link.Start();
//   if (!link.Valid()) … the Pod runs on the host …
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "node-agent/cri/cri_client.h"
#include "node-agent/cri/heterod_lease.h"
#include "node-agent/cri/log_mirror.h"
#include "node-agent/cri/pod_table.h"
#include "node-agent/cri/tasks.h"
#include "proto/heterok8s/v1/runtime.grpc.pb.h"

namespace heterok8s::cri {

// For the last lines of a log, when others used up the time of all.
inline constexpr std::chrono::milliseconds kShortestWait{100};

struct DpuLinkOptions {
  std::chrono::milliseconds interval{1000};
  std::chrono::milliseconds duration{5000};
  std::string pod_log_root;    // on the DPU
  std::string heterod_socket;  // of heterod on this PU
};

enum class DpuState {
  kHere,         // alive, fenced, and its runtime answers
  kRuntimeDown,  // alive; its runtime has not answered for as long as a lease, or not yet
  kLost,
};
const char* Name(DpuState state);

// The DPU did not answer: what it did not do is done when it answers again.
inline bool IsAway(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnavailable || status.code() == absl::StatusCode::kDeadlineExceeded;
}

class DpuLink {
 public:
  DpuLink(DpuLinkOptions options, CriClient& dpu, v1::DpuRuntime::StubInterface& runtime, PodTable& table,
          LogMirror& mirror, Tasks& tasks);
  ~DpuLink();

  void Start();
  void Stop();  // and waits for the threads
  // The first answer, or the end of the first lease without one: the table may be shown from then on. Not longer than
  // two leases: what is known then must do.
  void WaitUntilKnown();
  DpuState state() const;
  bool Valid() const { return state() == DpuState::kHere; }  // containers can be put there
  bool Alive() const { return state() != DpuState::kLost; }  // its heterod answers: logs, volumes
  std::string LastError() const;
  absl::Status AwayError() const;              // for people: "the DPU is away: no answer for 7 s", or its runtime is
  std::chrono::milliseconds LeaseAge() const;  // since the last good answer; negative: never

  void PollSoon();
  // Reads one container's status into the table; for use after a call that changed it.
  absl::Status Refresh(const std::string& container_id, Deadline deadline);

  // While it lives, a call is at work on the twin of this Pod and attempt: one without a host sandbox is on its way,
  // not left over, and one that should be stopped is being stopped.
  class AtWork {
   public:
    AtWork(DpuLink& link, const runtime::v1::PodSandboxMetadata& metadata);
    ~AtWork();

   private:
    DpuLink& link_;
    std::pair<std::string, uint32_t> key_;
  };

  // A twin of this Pod and attempt that belongs to no sandbox and to no other call; kNotFound when there is none.
  absl::Status RemoveLeftover(const runtime::v1::PodSandboxMetadata& metadata, Deadline deadline);

  // That nothing of an older epoch still runs in this twin, which could not be stopped.
  absl::Status CheckFenced(const std::string& twin_id) const;

  // The Pod's twin if it runs; one that has died (the DPU was rebooted, say) is removed, so that its name is free, and
  // what ended in it stays shown. Empty: there is none, make one. The Pod's files on the DPU stay. The caller is AtWork
  // and alone at this.
  absl::StatusOr<std::string> LiveTwin(const SplitPod& pod, Deadline deadline);

  // Stops and removes a twin, and with the last one of a Pod its files and its cgroup there (empty: it has none).
  absl::Status RemoveTwin(const std::string& twin_id, const runtime::v1::PodSandboxMetadata& metadata,
                          const std::string& cgroup, Deadline deadline);

 private:
  absl::StatusOr<DpuContainer> ReadContainer(const SplitPod& pod, const runtime::v1::Container& listed,
                                             Deadline deadline);
  // Of a container that has ended: its last lines and its message are on the host.
  void FinishFiles(const SplitPod& pod, DpuContainer* container, std::chrono::steady_clock::time_point until);
  // `pods` as they were before the DPU was asked.
  void FindTwins(const std::vector<SplitPod>& pods, const runtime::v1::ListPodSandboxResponse& sandboxes);
  bool IsLost(std::chrono::steady_clock::time_point now) const;  // under mutex_
  void Loop();
  absl::Status Round();
  absl::Status HearHeterod();  // the DPU's; its answer is a sign of life
  void Listen();               // on a thread: while a round takes longer than an interval, heterod is heard beside it
  absl::Status Poll();
  absl::Status Fence();
  void SweepLogs(const runtime::v1::ListContainersResponse& list);
  // Whether the last lines of one that was shown as lost are on the host.
  bool DrainLost(const DpuContainer& container, std::chrono::steady_clock::time_point until);
  // On a thread of its own, again with each round until it succeeds: one that cannot be removed keeps nobody else from
  // the DPU.
  void RemoveOnDpu(const runtime::v1::Container& container, const std::string& why, std::function<void()> then = {});
  // What kubelet removed while the DPU was away.
  void FinishRemovals(const runtime::v1::ListContainersResponse& list, const std::set<std::string>& removed);
  // A state file that cannot be written says nothing of the DPU: logged, and tried again with the next round.
  void SaveTable(uint64_t version);
  void PutTwinsRight(const runtime::v1::ListPodSandboxResponse& sandboxes);
  void Lose();

  DpuLinkOptions options_;
  CriClient& dpu_;
  v1::DpuRuntime::StubInterface& runtime_;
  PodTable& table_;
  LogMirror& mirror_;
  Tasks& tasks_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  bool poll_soon_ = false;
  bool known_ = false;
  bool here_ = false;  // fenced and read since the last loss
  bool ever_ = false;
  bool lost_ = false;                                // its containers are shown as lost; it has not been here since
  bool runtime_down_ = false;                        // and said so
  std::chrono::steady_clock::time_point last_good_;  // all that a round asks was answered
  std::chrono::steady_clock::time_point last_sign_;  // the DPU's heterod answered
  std::string last_error_;
  std::multiset<std::pair<std::string, uint32_t>> at_work_;
  std::set<std::string> cleaning_;               // twins and containers that a task is at
  std::map<std::string, std::string> unfenced_;  // containers of older epochs that could not be stopped -> their twin
  uint64_t saved_version_ = 0;                   // of the table; the link's thread only
  std::string save_error_;                       // the link's thread only
  bool unsaved_ = false;                         // the link's thread only
  bool swept_ = false;                           // the link's thread only
  HeterodLease lease_;                           // calls PollSoon
  std::thread thread_, listener_;
};

}  // namespace heterok8s::cri
