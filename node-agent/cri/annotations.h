// The annotations by which a Pod asks for a split and heterocri says what it did.
//
// On a Pod, by its author:
//   heteropod.io/offload: dpu                     the Pod's infrastructure containers go to the DPU
//   heteropod.io/offload-containers: a,b          which they are; without it, those of the list in heterocri's config
//   heteropod.io/fallback: host | pending | fail  when the DPU cannot take them; without it, as in heterocri's config
//   heteropod.io/volumes: cache=a,b;run=c         which containers use each emptyDir: one that only containers on the
//                                                 DPU use is made there; CRI alone does not tell who will mount it
// Threading, ownership: these are constants. Written by heterocri, on sandboxes (heterod reads the first two) and on
// containers. What heterocri needs to know about the host again after a restart is written on the host's sandbox: the
// DPU is not asked about paths of the host.
#pragma once

namespace heterok8s::cri {

inline constexpr const char* kOffload = "heteropod.io/offload";
inline constexpr const char* kOffloadContainers = "heteropod.io/offload-containers";
inline constexpr const char* kFallback = "heteropod.io/fallback";
inline constexpr const char* kVolumes = "heteropod.io/volumes";

inline constexpr const char* kPlacement = "heteropod.io/placement";               // "split" or "host"
inline constexpr const char* kPlacementReason = "heteropod.io/placement-reason";  // on containers too
inline constexpr const char* kRefused = "heteropod.io/dpu-refused";               // see PodVerdict.refused
inline constexpr const char* kLogDirectory = "heteropod.io/log-directory";        // PodSandboxConfig.log_directory
inline constexpr const char* kMark = "heteropod.io/mark";                         // see SandboxMark
inline constexpr const char* kTwin = "heteropod.io/twin";                         // "true" on a sandbox of the DPU
inline constexpr const char* kCgroup = "heteropod.io/cgroup";  // on a twin: the Pod's own on the DPU; see PodCgroupOf
// LinuxContainerResources as text: on a twin the whole Pod's, on DPU containers theirs, when they were made.
inline constexpr const char* kResources = "heteropod.io/resources";

inline constexpr const char* kPu = "heteropod.io/pu";        // on containers: "host" or "dpu"
inline constexpr const char* kEpoch = "heteropod.io/epoch";  // on DPU containers: see DpuLink
inline constexpr const char* kDpuVolumes =
    "heteropod.io/dpu-volumes";  // on DPU containers: emptyDirs made there, "a,b"
// On DPU containers: "/dev/termination-log=/var/lib/kubelet/…": the file that goes back to the host at the end.
inline constexpr const char* kTerminationLog = "heteropod.io/termination-log";

}  // namespace heterok8s::cri
