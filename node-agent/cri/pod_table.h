// What heterocri knows: the Pods that asked for a split, and the containers on the DPU as they were last seen.
//
// Purpose: List answers from here at once, whatever the DPU does. Rebuilt at start from both runtimes; the state file
// holds only what counts while the DPU is away: the last known containers, what was removed meanwhile, the epoch.
// Threading: thread-safe; nothing blocks but Save. Errors: of the state file.
//
//   PodTable table("/var/lib/heterok8s/cri.state");
//   table.PutPod(pod);
//   std::string more = table.ListBytes(request.filter());   // appended to the host's answer
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/status/status.h"
#include "node-agent/cri/placement.h"
#include "proto/cri/v1/cri.pb.h"

namespace heterok8s::cri {

struct SplitPod {
  std::string sandbox_id;  // on the host
  runtime::v1::PodSandboxMetadata metadata;
  PodVerdict verdict;
  std::string twin_id;                                            // empty: on the host only, or not known yet
  std::string log_directory;                                      // on the host
  std::optional<std::string> dpu_cgroup;                          // the Pod's own there; empty: it has none
  std::optional<runtime::v1::LinuxContainerResources> resources;  // of the whole Pod, as kubelet said last
  bool stopped = false;                                           // the twin must not run
  bool unproved = false;  // nothing says that heterocri made it: not split, but a twin of it stays until it is gone
};

struct DpuContainer {
  runtime::v1::Container listed;        // pod_sandbox_id is the host sandbox's
  runtime::v1::ContainerStatus status;  // log_path is the host's; mounts are the DPU's
  std::string twin_id;
  std::string dpu_log;                             // below the DPU's Pod log root
  runtime::v1::LinuxContainerResources resources;  // as kubelet said last
  uint64_t epoch = 0;
  bool unfinished = false;  // ended, and its log or message is not all on the host yet
  bool lost = false;        // shown as ended because the DPU was away for longer than the lease
  bool kept = false;        // ended, and gone from the DPU with its twin: shown until kubelet removes it

  const std::string& id() const { return listed.id(); }
  bool running() const { return listed.state() == runtime::v1::CONTAINER_RUNNING; }
};

// One event of a container, as GetContainerEvents has them.
struct ContainerChange {
  std::string container_id, sandbox_id;  // of the sandbox on the host
  runtime::v1::ContainerEventType type;
};

class PodTable {
 public:
  explicit PodTable(std::string state_file) : state_file_(std::move(state_file)) {}

  // kNotFound: there is none, a first start. Containers of the file are what FindContainer gives until the DPU is read.
  absl::Status Load();
  absl::Status Save();
  // Before LoseAll: the file says that the next epoch has begun. Were the table to show containers as lost first, a
  // crash between the two would let them run again.
  absl::Status SaveNextEpoch();
  // The state file's bytes; FromBytes takes the place of an empty table. kDataLoss: these are none.
  std::string ToBytes() const;
  absl::Status FromBytes(const std::string& bytes);

  void PutPod(SplitPod pod);
  std::optional<SplitPod> FindPod(const std::string& sandbox_id) const;  // also by a prefix of 12 or more characters
  std::optional<SplitPod> FindPodOfTwin(const std::string& twin_id) const;
  // Whether the state file that was loaded has a twin of it.
  bool KnowsTwinOf(const std::string& sandbox_id) const;
  std::vector<SplitPod> Pods() const;
  // Unless its twin is another one than `from` by now.
  void SetTwin(const std::string& sandbox_id, const std::string& from, const std::string& to);
  // What the DPU has of it. A cgroup or resources that are known stay.
  void LearnOfTwin(const std::string& sandbox_id, const std::string& dpu_cgroup,
                   const runtime::v1::LinuxContainerResources& resources);
  void SetResources(const std::string& sandbox_id, const runtime::v1::LinuxContainerResources& resources);
  void MarkStopped(const std::string& sandbox_id);
  void ErasePod(const std::string& sandbox_id);  // with its containers

  // False, and nothing is changed, for what the table knows better: one that kubelet removed or that is shown as lost,
  // or one of an older epoch that runs or may still be started. A call was in flight while the DPU was lost.
  bool PutContainer(DpuContainer container);
  std::optional<DpuContainer> FindContainer(const std::string& id) const;
  std::vector<DpuContainer> Containers() const;
  bool AnyContainer() const;
  // What has ended in this twin stays as it is shown when the DPU no longer has it.
  void KeepEnded(const std::string& twin_id);
  void SetContainerResources(const std::string& id, const runtime::v1::LinuxContainerResources& resources);
  void EraseContainer(const std::string& id);
  // Containers that match `filter`, as the bytes of a ListContainersResponse.
  std::string ListBytes(const runtime::v1::ContainerFilter& filter) const;
  // The same in several, none longer than `most` bytes by more than one container.
  std::vector<std::string> ListChunks(const runtime::v1::ContainerFilter& filter, size_t most) const;
  // As kubelet is shown it: where it looks for the termination message is a file of the host.
  runtime::v1::ContainerStatus Shown(const DpuContainer& container) const;
  // Of one Pod, by its sandbox on the host; as Shown.
  std::vector<runtime::v1::ContainerStatus> Statuses(const std::string& sandbox_id) const;

  // Called with every change that a runtime would tell of, in order, with the table locked: it must not call back.
  // Set before the second thread.
  using Observer = std::function<void(const ContainerChange&)>;
  void Observe(Observer observer) { observer_ = std::move(observer); }

  // Rises with every change but Replace's. A poll notes it first, and Replace refuses what was read before a change.
  uint64_t version() const;
  // `seen` are the DPU's containers now, without the lost ones: those, and kept ones, stay as they are shown until
  // kubelet removes them or their Pod.
  bool Replace(uint64_t version, std::vector<DpuContainer> seen);

  uint64_t epoch() const;
  void RaiseEpoch(uint64_t at_least);
  // The lease is over: every container that has not ended is shown as ended now, and belongs to a past epoch.
  void LoseAll(int64_t now_ns);
  // Removed by kubelet while the DPU was away.
  void AddRemoved(const std::string& id);
  std::set<std::string> Removed() const;
  void EraseRemoved(const std::string& id);

 private:
  const DpuContainer* Find(const std::string& id) const;
  runtime::v1::ContainerStatus ShownLocked(const DpuContainer& container) const;
  // The only way to change containers_: drops what they were encoded to.
  std::map<std::string, DpuContainer>& Changing() {
    everything_.reset();
    return containers_;
  }
  // What ListBytes gives without a filter; with the table locked.
  const std::string& Everything() const;
  // Tells the observer how one container became another; null: there was none, or is none any more.
  void Tell(const runtime::v1::Container* before, const runtime::v1::Container* after) const;

  std::string state_file_;
  mutable std::mutex mutex_;
  std::mutex save_mutex_;  // one writer of the file; taken before mutex_
  uint64_t version_ = 0;
  uint64_t epoch_ = 0;
  uint64_t file_epoch_ = 0;  // the file's is never lower
  Observer observer_;
  std::map<std::string, SplitPod> pods_;
  std::map<std::string, DpuContainer> containers_;
  // All containers as ListBytes gives them: kubelet asks for this every second, and encoding is most of our share in
  // it.
  mutable std::optional<std::string> everything_;
  std::set<std::string> removed_;
  struct SavedTwin {
    std::string id;
    std::optional<runtime::v1::LinuxContainerResources> resources;
  };
  std::map<std::string, SavedTwin> saved_twins_;  // of the file, for pods that Load comes before
};

bool Matches(const runtime::v1::Container& container, const runtime::v1::ContainerFilter& filter);

}  // namespace heterok8s::cri
