// CreateContainer: where, and everything that must be on the DPU before.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <linux/magic.h>
#include <spdlog/spdlog.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "common/fault/fault.h"
#include "common/sys/file.h"
#include "node-agent/cri/annotations.h"
#include "node-agent/cri/grpc_status.h"
#include "node-agent/cri/pod_limits.h"
#include "node-agent/cri/router.h"
#include "node-agent/cri/subpath.h"
#include "node-agent/cri/volume_reader.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

constexpr std::chrono::seconds kFileTime{10};
constexpr std::chrono::seconds kReadTime{5};
constexpr int kNeverStarted = 128;  // the exit code that containerd gives a container whose start failed

// As runtimes make them: 32 random bytes in hexadecimal.
absl::StatusOr<std::string> NewId() {
  unsigned char bytes[32];
  if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) return ErrnoToStatus(errno, "getrandom");
  return fmt::format("{:02x}", fmt::join(bytes, ""));
}

// By host path. What the kernel cannot say is left out, and such a container stays on the host.
std::map<std::string, std::string> SubPathKinds(const rt::ContainerConfig& config) {
  std::map<std::string, std::string> kinds;
  absl::StatusOr<std::string> mounts = absl::UnknownError("not read yet");
  for (const rt::Mount& mount : config.mounts()) {
    if (mount.host_path().find("/volume-subpaths/") == std::string::npos) continue;
    if (!mounts.ok()) mounts = sys::ReadFile("/proc/self/mountinfo");
    if (!mounts.ok()) return kinds;
    if (auto kind = SubPathKind(*mounts, mount.host_path())) kinds[mount.host_path()] = *kind;
  }
  return kinds;
}

}  // namespace

void Router::CreateContainer(const CallPtr& call) {
  rt::CreateContainerRequest request;
  if (!ParseRequest(*call, &request)) return;
  std::optional<SplitPod> pod = parts_.table.FindPod(request.pod_sandbox_id());
  if (!pod) {
    ForwardToHost(call);
    return;
  }
  Deadline deadline = LimitOf(*call);
  const rt::ContainerConfig& config = request.config();
  std::string name = fmt::format("Pod {}/{}, container '{}'", pod->metadata.namespace_(), pod->metadata.name(),
                                 config.metadata().name());
  std::optional<bool> target_on_dpu;
  const rt::NamespaceOption& namespaces = config.linux().security_context().namespace_options();
  if (namespaces.pid() == rt::TARGET) target_on_dpu = parts_.table.FindContainer(namespaces.target_id()).has_value();
  absl::StatusOr<std::map<std::string, std::string>> users = EmptyDirUsers(*pod, config, deadline);
  if (!users.ok()) {
    Answer(*call, Annotate(users.status(), name));
    return;
  }

  ContainerVerdict verdict =
      DecideContainer(pod->verdict, pod->metadata.uid(), config, *users, target_on_dpu, SubPathKinds(config));
  if (verdict.dpu) {
    const std::string& refused = pod->verdict.refused;
    const absl::StatusOr<std::string> id =
        refused.empty() ? CreateOnDpu(*pod, verdict, request, deadline) : absl::UnavailableError(refused);
    if (id.ok()) {
      ++figures_.containers_on_dpu;
      spdlog::info("{}: on the DPU: {}", name, verdict.reason);
      rt::CreateContainerResponse response;
      response.set_container_id(*id);
      call->Finish(grpc::Status::OK, ToBuffer(response.SerializeAsString()));
      return;
    }
    if (pod->verdict.fallback != Fallback::kHost) {
      const std::string refusal = refused.empty() ? fmt::format("on the DPU: {} (fallback is '{}')",
                                                                Message(id.status()), Name(pod->verdict.fallback))
                                                  : refused;
      spdlog::info("{}: {}", name, refusal);
      // A registry that does not answer, say, has the same codes as a DPU that does not.
      const bool away = !refused.empty() || (IsAway(id.status()) && !parts_.link.Valid());
      if (pod->verdict.fallback == Fallback::kFail && away) {
        Answer(*call, CreateEnded(*pod, request, refusal));
      } else {
        Answer(*call, absl::Status(id.status().code(), refusal));
      }
      return;
    }
    ++figures_.container_fallbacks;
    verdict = {.dpu = false, .reason = fmt::format("the DPU did not take it: {}", Message(id.status()))};
  }
  if (absl::Status split_volume = CheckDpuVolumes(*pod, config, verdict.reason); !split_volume.ok()) {
    Answer(*call, Annotate(split_volume, name));
    return;
  }
  spdlog::info("{}: on the host: {}", name, verdict.reason);
  auto& annotations = *request.mutable_config()->mutable_annotations();
  annotations[kPu] = "host";
  annotations[kPlacementReason] = verdict.reason;
  ForwardBytes(parts_.host.stub(), call, ToBuffer(request.SerializeAsString()),
               [this, image = config.image().image()](grpc::Status* status, grpc::ByteBuffer*) {
                 if (status->error_code() == grpc::StatusCode::NOT_FOUND) image_notes_.HostLacks(image);
               });
}

absl::StatusOr<std::string> Router::CreateOnDpu(const SplitPod& pod, const ContainerVerdict& verdict,
                                                const rt::CreateContainerRequest& request, Deadline deadline) {
  if (!parts_.link.Valid()) return parts_.link.AwayError();
  HK_RETURN_IF_ERROR(parts_.link.CheckFenced(pod.twin_id));
  DpuContainerOptions options;
  HK_ASSIGN_OR_RETURN(options.twin_id, EnsureTwin(pod, request.sandbox_config(), deadline));
  options.reason = verdict.reason;
  HK_ASSIGN_OR_RETURN(options.image, DpuImage(request, deadline));
  HK_RETURN_IF_ERROR(PlaceMounts(request, verdict, &options, deadline));
  HK_RETURN_IF_ERROR(PlaceSeccomp(request, &options, deadline));
  HK_ASSIGN_OR_RETURN(options.unified, TakesUnified(request.config().linux().resources(), deadline));
  HK_FAULT_POINT("cri.create.after-volumes");
  if (std::string log = DpuLogPath(request); !log.empty()) {
    grpc::ClientContext context;
    context.set_deadline(std::min(deadline, In(kFileTime)));
    v1::PrepareLogRequest prepare;
    prepare.set_path(log);
    v1::PrepareLogReply reply;
    HK_RETURN_IF_ERROR(Annotate(FromGrpc(parts_.runtime.PrepareLog(&context, prepare, &reply)), "log folder"));
  }
  HK_FAULT_POINT("cri.create.after-log-folder");
  // Only now: a pull may take longer than the DPU was lost for.
  if (!parts_.link.Valid()) return parts_.link.AwayError();
  options.epoch = parts_.table.epoch();
  rt::CreateContainerRequest on_dpu = ContainerOnDpu(request, options_.paths, options);
  // Until the table has it: what another call makes of the Pod's sum has this one in it.
  HK_ASSIGN_OR_RETURN(sys::KeyedMutex::Guard limits, limits_.Lock(pod.sandbox_id, kLimitsPatience));
  HK_RETURN_IF_ERROR(Annotate(LimitForNew(pod, on_dpu, deadline), "the Pod's limits on the DPU"));
  HK_FAULT_POINT("cri.create.after-limits");
  HK_ASSIGN_OR_RETURN(auto response, parts_.dpu.Call<rt::CreateContainerResponse>(kCreateContainer, on_dpu, deadline));
  HK_FAULT_POINT("cri.create.after-dpu");

  absl::Status read = parts_.link.Refresh(response.container_id(), In(kReadTime));
  if (parts_.table.epoch() != options.epoch) {
    // It must never be started; a DPU that returns is rid of it.
    parts_.table.EraseContainer(response.container_id());
    parts_.link.PollSoon();
    return absl::UnavailableError("the DPU was lost while the container was made");
  }
  if (!read.ok()) {
    spdlog::warn("container {} was made on the DPU; its status comes later: {}", response.container_id(),
                 ToString(read));
    DpuContainer container;
    container.listed.set_id(response.container_id());
    container.listed.set_pod_sandbox_id(pod.sandbox_id);
    *container.listed.mutable_metadata() = on_dpu.config().metadata();
    *container.listed.mutable_image() = on_dpu.config().image();
    *container.listed.mutable_labels() = on_dpu.config().labels();
    *container.listed.mutable_annotations() = on_dpu.config().annotations();
    container.twin_id = options.twin_id;
    container.epoch = options.epoch;
    container.resources = LimitsAlone(on_dpu.config().linux().resources());
    parts_.table.PutContainer(std::move(container));
    parts_.link.PollSoon();
  }
  HK_FAULT_POINT("cri.create.before-answer");
  return response.container_id();
}

absl::StatusOr<grpc::ByteBuffer> Router::CreateEnded(const SplitPod& pod, const rt::CreateContainerRequest& request,
                                                     const std::string& why) {
  HK_ASSIGN_OR_RETURN(const std::string id, NewId());
  const rt::ContainerConfig& config = request.config();
  const int64_t now = std::chrono::nanoseconds(std::chrono::system_clock::now().time_since_epoch()).count();
  DpuContainer container;
  container.lost = true;  // it never runs
  container.epoch = parts_.table.epoch();
  rt::Container& listed = container.listed;
  listed.set_id(id);
  listed.set_pod_sandbox_id(pod.sandbox_id);
  *listed.mutable_metadata() = config.metadata();
  *listed.mutable_image() = config.image();
  listed.set_image_ref(config.image().image());
  listed.set_state(rt::CONTAINER_EXITED);
  listed.set_created_at(now);
  *listed.mutable_labels() = config.labels();
  *listed.mutable_annotations() = config.annotations();
  (*listed.mutable_annotations())[kPu] = "dpu";
  (*listed.mutable_annotations())[kPlacementReason] = pod.verdict.reason;
  rt::ContainerStatus& status = container.status;
  status.set_id(id);
  *status.mutable_metadata() = config.metadata();
  status.set_state(rt::CONTAINER_EXITED);
  status.set_created_at(now);
  status.set_started_at(now);
  status.set_finished_at(now);
  status.set_exit_code(kNeverStarted);
  *status.mutable_image() = config.image();
  status.set_image_ref(config.image().image());
  status.set_reason("DPUUnavailable");
  status.set_message(why);
  *status.mutable_labels() = config.labels();
  *status.mutable_annotations() = listed.annotations();
  if (!pod.log_directory.empty()) status.set_log_path(pod.log_directory + "/" + config.log_path());
  parts_.table.PutContainer(std::move(container));
  HK_RETURN_IF_ERROR(parts_.table.Save());  // the DPU knows nothing of it
  rt::CreateContainerResponse response;
  response.set_container_id(id);
  return ToBuffer(response.SerializeAsString());
}

absl::Status Router::PlaceMounts(const rt::CreateContainerRequest& request, const ContainerVerdict& verdict,
                                 DpuContainerOptions* options, Deadline deadline) {
  for (int i = 0; i < request.config().mounts_size(); ++i) {
    const rt::Mount& mount = request.config().mounts(i);
    const MountPlan& plan = verdict.mounts[i];
    std::string what = fmt::format("mount '{}'", mount.container_path());
    grpc::ClientContext context;
    context.set_deadline(std::min(deadline, In(kFileTime)));
    v1::PutVolumeReply reply;
    if (plan.kind == MountPlan::Kind::kDpuLocal) {
      struct stat info = {};
      if (stat(mount.host_path().c_str(), &info) != 0)
        return ErrnoToStatus(errno, fmt::format("{}: '{}'", what, mount.host_path()));
      v1::MakeVolumeRequest make;
      make.set_pod_uid(request.sandbox_config().metadata().uid());
      make.set_volume(plan.volume);
      make.set_mode(info.st_mode & 07777);
      make.set_uid(info.st_uid);
      make.set_gid(info.st_gid);
      struct statfs system = {};
      if (statfs(mount.host_path().c_str(), &system) == 0 && system.f_type == TMPFS_MAGIC) {
        make.set_memory(true);
        make.set_memory_bytes(system.f_blocks * static_cast<uint64_t>(system.f_bsize));
      }
      HK_RETURN_IF_ERROR(Annotate(FromGrpc(parts_.runtime.MakeVolume(&context, make, &reply)), what));
      options->dpu_volumes.push_back(plan.volume);
    } else {
      absl::StatusOr<v1::PutVolumeRequest> copy = ReadVolume(mount.host_path());
      HK_RETURN_IF_ERROR(Annotate(copy.status(), what));
      copy->set_pod_uid(request.sandbox_config().metadata().uid());
      copy->set_volume(plan.volume);
      // What kubelet keeps up to date is a folder; /etc/hosts and the like stay as they are.
      copy->set_live(copy->entries(0).kind() == v1::VolumeEntry::FOLDER);
      HK_RETURN_IF_ERROR(Annotate(FromGrpc(parts_.runtime.PutVolume(&context, *copy, &reply)), what));
      HK_FAULT_POINT("cri.volume.after-copy");
      if (copy->live()) {
        HK_RETURN_IF_ERROR(parts_.volumes.Follow(copy->pod_uid(), plan.volume, mount.host_path()));
      }
      if (plan.kind == MountPlan::Kind::kTermination) {
        options->termination_log = mount.container_path() + "=" + mount.host_path();
      }
    }
    options->mount_paths.push_back(reply.path());
  }
  return absl::OkStatus();
}

absl::Status Router::PlaceSeccomp(const rt::CreateContainerRequest& request, DpuContainerOptions* options,
                                  Deadline deadline) {
  const rt::SecurityProfile& profile = request.config().linux().security_context().seccomp();
  if (profile.profile_type() != rt::SecurityProfile::Localhost) return absl::OkStatus();
  const std::string& path = profile.localhost_ref();
  const std::string what = fmt::format("seccomp profile '{}'", path);
  absl::StatusOr<v1::PutVolumeRequest> copy = ReadVolume(path);
  HK_RETURN_IF_ERROR(Annotate(copy.status(), what));
  copy->set_pod_uid(request.sandbox_config().metadata().uid());
  copy->set_volume(fmt::format("seccomp-{:x}", std::hash<std::string>{}(path)));
  grpc::ClientContext context;
  context.set_deadline(std::min(deadline, In(kFileTime)));
  v1::PutVolumeReply reply;
  HK_RETURN_IF_ERROR(Annotate(FromGrpc(parts_.runtime.PutVolume(&context, *copy, &reply)), what));
  options->seccomp_profile = reply.path();
  return absl::OkStatus();
}

absl::StatusOr<std::map<std::string, std::string>> Router::EmptyDirUsers(const SplitPod& pod,
                                                                         const rt::ContainerConfig& config,
                                                                         Deadline deadline) {
  std::map<std::string, std::string> users;
  bool any = false;
  for (const rt::Mount& mount : config.mounts()) any |= EmptyDirOf(mount.host_path(), pod.metadata.uid()).has_value();
  if (!any || (!pod.verdict.split && pod.verdict.refused.empty())) return users;
  // Asked of the runtime, not remembered: it stays true over a restart of heterocri.
  rt::ListContainersRequest list;
  list.mutable_filter()->set_pod_sandbox_id(pod.sandbox_id);
  HK_ASSIGN_OR_RETURN(auto containers, parts_.host.Call<rt::ListContainersResponse>(kListContainers, list, deadline));
  for (const rt::Container& container : containers.containers()) {
    rt::ContainerStatusRequest ask;
    ask.set_container_id(container.id());
    auto status = parts_.host.Call<rt::ContainerStatusResponse>(kContainerStatus, ask, deadline);
    if (status.status().code() == absl::StatusCode::kNotFound) continue;
    HK_RETURN_IF_ERROR(status.status());
    for (const rt::Mount& mount : status->status().mounts()) {
      if (auto volume = EmptyDirOf(mount.host_path(), pod.metadata.uid())) users[*volume] = container.metadata().name();
    }
  }
  return users;
}

absl::Status Router::CheckDpuVolumes(const SplitPod& pod, const rt::ContainerConfig& config,
                                     const std::string& why_host) const {
  for (const DpuContainer& container : parts_.table.Containers()) {
    // What a lost one had is lost with it: the host's folder takes its place.
    if (container.listed.pod_sandbox_id() != pod.sandbox_id || container.lost) continue;
    auto made = container.listed.annotations().find(kDpuVolumes);
    if (made == container.listed.annotations().end()) continue;
    for (const rt::Mount& mount : config.mounts()) {
      auto volume = EmptyDirOf(mount.host_path(), pod.metadata.uid());
      if (!volume || ("," + made->second + ",").find("," + *volume + ",") == std::string::npos) continue;
      const std::string what =
          fmt::format("volume '{}' is on the DPU with {}", *volume, container.listed.metadata().name());
      auto declared = pod.verdict.volumes.find(*volume);
      if (declared == pod.verdict.volumes.end() || !declared->second.contains(config.metadata().name())) {
        return absl::FailedPreconditionError(
            fmt::format("{}, because annotation {} does not name '{}'", what, kVolumes, config.metadata().name()));
      }
      return absl::FailedPreconditionError(
          fmt::format("{}, but '{}' stays on the host: {}", what, config.metadata().name(), why_host));
    }
  }
  return absl::OkStatus();
}

}  // namespace heterok8s::cri
