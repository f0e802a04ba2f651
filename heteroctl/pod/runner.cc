#include "heteroctl/pod/runner.h"

#include <absl/cleanup/cleanup.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <thread>

#include "common/sys/file.h"
#include "heteroctl/output.h"
#include "heteroctl/pod/log_reader.h"
#include "heteroctl/pod/subpath.h"
#include "heteroctl/pod/translate.h"
#include "heteroctl/pod/volumes.h"

namespace heterok8s::ctl {
namespace {

namespace cri = runtime::v1;
using std::chrono::seconds;
using std::chrono::steady_clock;

constexpr seconds kInitLimit{600};  // an init container that never ends is an error, not a wait for ever

absl::StatusOr<std::string> NewUid() {
  HK_ASSIGN_OR_RETURN(std::string uid, sys::ReadFile("/proc/sys/kernel/random/uuid"));
  while (!uid.empty() && uid.back() == '\n') uid.pop_back();
  return uid;
}

absl::Status ReleaseAll(const std::string& cri_socket, const std::string& pod_folder) {
  if (!HadSubPaths(pod_folder)) return absl::OkStatus();
  HK_ASSIGN_OR_RETURN(FileView view, ViewOfListener(cri_socket));
  return ReleaseSubPaths(view, pod_folder);
}

class Runner {
 public:
  Runner(CriClient& cri, manifest::Manifest manifest, const RunOptions& options, const Report& report)
      : cri_(cri), manifest_(std::move(manifest)), pod_(manifest_.pod), options_(options), report_(report) {}

  absl::StatusOr<RunningPod> Run() {
    HK_RETURN_IF_ERROR(RefuseSecond());
    if (pod_.uid.empty()) {
      HK_ASSIGN_OR_RETURN(pod_.uid, NewUid());
    }
    HK_ASSIGN_OR_RETURN(std::string folder, MakePodFolder(options_.root, pod_.uid));
    place_ = {.folder = folder, .cgroup_parent = options_.cgroup_parent};
    running_.uid = pod_.uid;
    auto undo = absl::MakeCleanup([this] { Undo(); });

    HK_RETURN_IF_ERROR(MakeVolumes(manifest_, place_.folder));
    sandbox_ = SandboxConfig(pod_, place_);
    report_("making the sandbox");
    cri::RunPodSandboxRequest request;
    *request.mutable_config() = sandbox_;
    HK_ASSIGN_OR_RETURN(auto made, cri_.RunPodSandbox(request));
    running_.sandbox_id = made.pod_sandbox_id();
    HK_ASSIGN_OR_RETURN(cri::PodSandboxStatus status, cri_.PodSandboxStatus(running_.sandbox_id));
    running_.ip = status.network().ip();

    for (const manifest::Container& container : pod_.init_containers) {
      HK_RETURN_IF_ERROR(Annotate(RunInit(container), fmt::format("init container '{}'", container.name)));
    }
    for (const manifest::Container& container : pod_.containers) {
      HK_RETURN_IF_ERROR(Annotate(Start(container).status(), fmt::format("container '{}'", container.name)));
    }
    std::move(undo).Cancel();
    return running_;
  }

 private:
  absl::Status RefuseSecond() {
    HK_ASSIGN_OR_RETURN(cri::ListPodSandboxResponse list, cri_.ListPodSandbox());
    for (const cri::PodSandbox& sandbox : list.items()) {
      if (!pod_.uid.empty() && sandbox.metadata().uid() == pod_.uid) {
        return WithHint(absl::AlreadyExistsError(fmt::format("a Pod with UID '{}' exists", pod_.uid)),
                        fmt::format("leave metadata.uid out; `heteroctl rm {}` removes it", pod_.uid));
      }
      if (sandbox.metadata().name() != pod_.name || sandbox.metadata().namespace_() != pod_.pod_namespace) continue;
      return WithHint(absl::AlreadyExistsError(fmt::format("Pod '{}/{}' exists", pod_.pod_namespace, pod_.name)),
                      fmt::format("`heteroctl rm {}/{}` removes it", pod_.pod_namespace, pod_.name));
    }
    return absl::OkStatus();
  }

  absl::Status EnsureImage(const manifest::Container& container) {
    cri::ImageSpec image = ImageOf(pod_, container);
    HK_ASSIGN_OR_RETURN(std::string id, cri_.ImageId(image));
    if (!id.empty()) return absl::OkStatus();
    report_(fmt::format("pulling {}", container.image));
    cri::PullImageRequest request;
    *request.mutable_image() = image;
    *request.mutable_sandbox_config() = sandbox_;
    return cri_.PullImage(request);
  }

  absl::StatusOr<std::string> Start(const manifest::Container& container) {
    report_(fmt::format("starting {}", container.name));
    HK_RETURN_IF_ERROR(EnsureImage(container));
    cri::CreateContainerRequest request;
    request.set_pod_sandbox_id(running_.sandbox_id);
    HK_ASSIGN_OR_RETURN(*request.mutable_config(), ContainerConfig(pod_, container, place_, running_.ip));
    *request.mutable_sandbox_config() = sandbox_;
    auto let_go = absl::MakeCleanup([this] { ReleaseAll(options_.cri_socket, place_.folder).IgnoreError(); });
    HK_RETURN_IF_ERROR(HoldSubPaths(container));
    HK_ASSIGN_OR_RETURN(std::string id, cri_.CreateContainer(request));
    running_.containers.push_back({container.name, id});
    HK_RETURN_IF_ERROR(cri_.StartContainer(id));
    return id;
  }

  absl::Status HoldSubPaths(const manifest::Container& container) {
    const std::vector<SubPath> sub_paths = SubPathsOf(pod_, container, place_.folder);
    if (sub_paths.empty()) return absl::OkStatus();
    HK_ASSIGN_OR_RETURN(FileView view, ViewOfListener(options_.cri_socket));
    for (const SubPath& sub_path : sub_paths) HK_RETURN_IF_ERROR(HoldSubPath(view, sub_path));
    return absl::OkStatus();
  }

  absl::Status RunInit(const manifest::Container& container) {
    HK_ASSIGN_OR_RETURN(std::string id, Start(container));
    if (container.is_sidecar) return absl::OkStatus();
    report_(fmt::format("waiting for init container {}", container.name));
    steady_clock::time_point limit = steady_clock::now() + kInitLimit;
    while (true) {
      HK_ASSIGN_OR_RETURN(cri::ContainerStatus status, cri_.ContainerStatus(id));
      if (status.state() == cri::CONTAINER_EXITED) {
        if (status.exit_code() == 0) return absl::OkStatus();
        return absl::AbortedError(fmt::format("ended with exit code {} ({})\n{}", status.exit_code(), status.reason(),
                                              fmt::join(LastLines(status.log_path(), 10), "\n")));
      }
      if (steady_clock::now() > limit) {
        return absl::DeadlineExceededError(fmt::format("still runs after {} s", kInitLimit.count()));
      }
      // CRI v1 has no wait; kubelet polls its runtime too.
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }

  void Undo() {
    if (options_.keep_on_failure) return;
    if (running_.sandbox_id.empty()) {
      RemovePodFolder(options_.root, pod_.uid).IgnoreError();
      return;
    }
    FoundPod pod;
    pod.sandbox.set_id(running_.sandbox_id);
    pod.sandbox.mutable_metadata()->set_uid(pod_.uid);
    (*pod.sandbox.mutable_annotations())[kAnnotationFolder] = place_.folder;
    (*pod.sandbox.mutable_annotations())[kAnnotationGrace] = std::to_string(1);
    for (const StartedContainer& started : running_.containers) {
      cri::Container container;
      container.set_id(started.id);
      pod.containers.push_back(container);
    }
    RemovePod(cri_, pod, options_).IgnoreError();  // the failure that brought us here is the one to report
  }

  CriClient& cri_;
  manifest::Manifest manifest_;
  manifest::Pod& pod_;
  const RunOptions& options_;
  const Report& report_;
  PodPlace place_;
  cri::PodSandboxConfig sandbox_;
  RunningPod running_;
};

std::string Value(const google::protobuf::Map<std::string, std::string>& map, const std::string& key) {
  auto found = map.find(key);
  return found == map.end() ? "" : found->second;
}

// What the manifest said. The annotation of a kubelet's Pod may say anything: then it is what a manifest leaves out.
seconds GraceOf(const FoundPod& pod) {
  const std::string text = Value(pod.sandbox.annotations(), kAnnotationGrace);
  int64_t grace = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), grace);
  bool fits = error == std::errc() && end == text.data() + text.size() && grace >= 0 && grace <= 86400;
  return seconds(fits ? grace : 30);
}

}  // namespace

absl::StatusOr<RunningPod> RunPod(CriClient& cri, manifest::Manifest manifest, const RunOptions& options,
                                  const Report& report) {
  std::string name = fmt::format("Pod {}/{}", manifest.pod.pod_namespace, manifest.pod.name);
  absl::StatusOr<RunningPod> pod = Runner(cri, std::move(manifest), options, report).Run();
  if (!pod.ok()) return WithHint(Annotate(pod.status(), name), HintOf(pod.status()));
  return pod;
}

absl::StatusOr<cri::Container> FindContainer(const FoundPod& pod, const std::string& name) {
  std::vector<std::string> names;
  for (const cri::Container& container : pod.containers) {
    if (name.empty() || container.metadata().name() == name) return container;
    names.push_back(container.metadata().name());
  }
  return absl::NotFoundError(fmt::format("Pod '{}' has no container '{}'; it has: {}", pod.sandbox.metadata().name(),
                                         name, fmt::join(names, ", ")));
}

bool SaysFolder(const FoundPod& pod) { return pod.sandbox.annotations().contains(kAnnotationFolder); }

bool HasFolderBeneath(const FoundPod& pod, const std::string& root) {
  absl::StatusOr<std::string> folder = PodFolder(root, pod.sandbox.metadata().uid());
  return folder.ok() && Value(pod.sandbox.annotations(), kAnnotationFolder) == *folder;
}

absl::Status RemovePod(CriClient& cri, const FoundPod& pod, const RunOptions& options) {
  const seconds grace = GraceOf(pod);
  absl::Status first;
  auto note = [&first](const absl::Status& status) {
    if (first.ok() && !status.ok() && status.code() != absl::StatusCode::kNotFound) first = status;
  };
  std::vector<cri::Container> containers = pod.containers;
  containers.insert(containers.end(), pod.former_containers.begin(), pod.former_containers.end());
  std::vector<cri::PodSandbox> sandboxes = pod.former_sandboxes;
  sandboxes.push_back(pod.sandbox);
  // All are told to stop at once, as in a Pod that kubelet ends.
  std::vector<std::thread> stops;
  std::vector<absl::Status> stopped(containers.size());
  for (size_t i = 0; i < containers.size(); ++i) {
    stops.emplace_back([&, i] { stopped[i] = cri.StopContainer(containers[i].id(), grace); });
  }
  for (std::thread& stop : stops) stop.join();
  for (const absl::Status& status : stopped) note(status);
  for (const cri::PodSandbox& sandbox : sandboxes) note(cri.StopPodSandbox(sandbox.id()));
  for (const cri::Container& container : containers) note(cri.RemoveContainer(container.id()));
  for (const cri::PodSandbox& sandbox : sandboxes) note(cri.RemovePodSandbox(sandbox.id()));
  if (!HasFolderBeneath(pod, options.root)) return first;
  const std::string& uid = pod.sandbox.metadata().uid();
  const absl::Status released = ReleaseAll(options.cri_socket, *PodFolder(options.root, uid));
  note(released.ok() ? RemovePodFolder(options.root, uid) : released);
  return first;
}

}  // namespace heterok8s::ctl
