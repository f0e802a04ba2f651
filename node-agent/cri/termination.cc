#include "node-agent/cri/termination.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include "common/sys/unique_fd.h"
#include "node-agent/cri/annotation_of.h"
#include "node-agent/cri/termination_path.h"

namespace heterok8s::cri {
namespace {

constexpr size_t kMaxMessageBytes = 64 << 10;  // kubelet shows the last 4 KiB

// In place: kubelet made the file, and knows it by its path and owner. Cut to size after the bytes are there: a call
// and the poll may both bring the message, and whoever has seen the first must not find the file empty for the second.
absl::Status Overwrite(const std::string& path, const std::string& data) {
  sys::UniqueFd fd(open(path.c_str(), O_WRONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.valid()) return ErrnoToStatus(errno, "open '" + path + "'");
  if (write(fd.get(), data.data(), data.size()) != static_cast<ssize_t>(data.size()) ||
      ftruncate(fd.get(), static_cast<off_t>(data.size())) != 0) {
    return ErrnoToStatus(errno, "write '" + path + "'");
  }
  return absl::OkStatus();
}

}  // namespace

bool BringTerminationLog(v1::DpuRuntime::StubInterface& runtime, const DpuContainer& container,
                         const std::string& pod_uid, std::chrono::system_clock::time_point deadline) {
  if (AnnotationOf(container.listed.annotations(), kTerminationLog).empty()) return true;
  const std::optional<TerminationPath> path = TerminationPathOf(container.listed, pod_uid);
  if (!path) {
    spdlog::warn("termination message of container {}: '{}' is no file of its Pod", container.id(),
                 AnnotationOf(container.listed.annotations(), kTerminationLog));
    return true;
  }
  for (const auto& mount : container.status.mounts()) {
    if (mount.container_path() != path->inside) continue;
    grpc::ClientContext context;
    context.set_deadline(deadline);
    v1::GetFileRequest request;
    request.set_pod_uid(pod_uid);
    request.set_path(mount.host_path());
    request.set_max_bytes(kMaxMessageBytes);
    request.set_tail(true);
    v1::GetFileReply reply;
    grpc::Status got = runtime.GetFile(&context, request, &reply);
    absl::Status written =
        got.ok() && !reply.data().empty() ? Overwrite(path->on_host, reply.data()) : absl::OkStatus();
    if (!got.ok() || !written.ok()) {
      spdlog::warn("termination message of container {}: {}{}", container.id(), got.error_message(), Message(written));
    }
    return got.error_code() != grpc::StatusCode::UNAVAILABLE && got.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED;
  }
  return true;
}

}  // namespace heterok8s::cri
