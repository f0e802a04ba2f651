#include "node-agent/cri/dpu_runtime.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <cerrno>

#include "node-agent/cri/grpc_status.h"
#include "node-agent/cri/log_tail.h"
#include "node-agent/cri/splice.h"
#include "node-agent/cri/stream_http.h"

namespace heterok8s::cri {
namespace {

// How soon a caller that has gone is noticed while the log is silent.
constexpr std::chrono::milliseconds kLookForCaller{200};
// heterocri has half a second for figures (router_stats.cc); those of the last walk are better than none.
constexpr std::chrono::milliseconds kWalkPatience{250};

// On loopback, where connect is immediate.
absl::StatusOr<sys::UniqueFd> Connect(const RuntimeUrl& url) {
  sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(url.port), .sin_addr = {}, .sin_zero = {}};
  sockaddr_in6 v6 = {};
  v6.sin6_family = AF_INET6;
  v6.sin6_port = htons(url.port);
  bool is_v4 = inet_pton(AF_INET, url.address.c_str(), &v4.sin_addr) == 1;
  if (!is_v4) inet_pton(AF_INET6, url.address.c_str(), &v6.sin6_addr);
  sys::UniqueFd fd(socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr* address = is_v4 ? reinterpret_cast<sockaddr*>(&v4) : reinterpret_cast<sockaddr*>(&v6);
  if (!fd.valid() || connect(fd.get(), address, is_v4 ? sizeof v4 : sizeof v6) != 0) {
    return ErrnoToStatus(errno, fmt::format("the runtime's streaming server on port {}", url.port));
  }
  int yes = 1;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
  return fd;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DpuRuntimeService>> DpuRuntimeService::Open(DpuRuntimeOptions options) {
  HK_ASSIGN_OR_RETURN(ConfinedRoot logs, ConfinedRoot::Open(options.pod_log_root));
  HK_ASSIGN_OR_RETURN(VolumeStore volumes, VolumeStore::Open(options.volume_root));
  if (!options.cgroups) {
    HK_ASSIGN_OR_RETURN(options.cgroups, PodCgroups::Find());
  }
  PodCgroups cgroups = *options.cgroups;
  return std::unique_ptr<DpuRuntimeService>(
      new DpuRuntimeService(std::move(options), std::move(logs), std::move(volumes), std::move(cgroups)));
}

grpc::Status DpuRuntimeService::Allowed(grpc::ServerContext* context) const {
  return options_.authorize ? options_.authorize(*context) : grpc::Status::OK;
}

grpc::Status DpuRuntimeService::TailLog(grpc::ServerContext* context, const v1::TailLogRequest* request,
                                        grpc::ServerWriter<v1::LogChunk>* writer) {
  if (grpc::Status allowed = Allowed(context); !allowed.ok()) return allowed;
  LogTail tail(logs_, request->path(), request->offset(), request->follow());
  while (!context->IsCancelled()) {
    absl::StatusOr<LogTail::Piece> piece = tail.Next(kLookForCaller);
    if (!piece.ok()) return ToGrpc(piece.status());
    if (piece->kind == LogTail::Piece::Kind::kEnd) return grpc::Status::OK;
    if (piece->kind == LogTail::Piece::Kind::kNothingYet) continue;
    v1::LogChunk chunk;
    chunk.set_offset(piece->offset);
    chunk.set_data(std::move(piece->data));
    if (!writer->Write(chunk)) break;
  }
  return grpc::Status(grpc::StatusCode::CANCELLED, "the reader has gone");
}

grpc::Status DpuRuntimeService::PrepareLog(grpc::ServerContext* context, const v1::PrepareLogRequest* request,
                                           v1::PrepareLogReply*) {
  if (grpc::Status allowed = Allowed(context); !allowed.ok()) return allowed;
  if (absl::Status checked = CheckRelativePath(request->path()); !checked.ok()) return ToGrpc(checked);
  size_t slash = request->path().rfind('/');
  if (slash == std::string::npos) return grpc::Status::OK;
  return ToGrpc(logs_.MakeFolders(request->path().substr(0, slash), 0755));
}

grpc::Status DpuRuntimeService::ReleaseLog(grpc::ServerContext* context, const v1::ReleaseLogRequest* request,
                                           v1::ReleaseLogReply*) {
  if (grpc::Status allowed = Allowed(context); !allowed.ok()) return allowed;
  if (request->remove()) return ToGrpc(logs_.Remove(request->path()));
  return ToGrpc(cri::ReleaseLog(logs_, request->path(), request->offset()));
}

grpc::Status DpuRuntimeService::PutVolume(grpc::ServerContext* context, const v1::PutVolumeRequest* request,
                                          v1::PutVolumeReply* reply) {
  if (grpc::Status allowed = Allowed(context); !allowed.ok()) return allowed;
  absl::StatusOr<std::string> path = volumes_.Put(*request);
  if (path.ok()) reply->set_path(*path);
  return ToGrpc(path.status());
}

grpc::Status DpuRuntimeService::MakeVolume(grpc::ServerContext* context, const v1::MakeVolumeRequest* request,
                                           v1::PutVolumeReply* reply) {
  if (grpc::Status allowed = Allowed(context); !allowed.ok()) return allowed;
  absl::StatusOr<std::string> path = volumes_.Make(*request);
  if (path.ok()) reply->set_path(*path);
  return ToGrpc(path.status());
}

grpc::Status DpuRuntimeService::UsedByVolumes(grpc::ServerContext* context, const v1::UsedByVolumesRequest*,
                                              v1::UsedByVolumesReply* reply) {
  if (grpc::Status allowed = Allowed(context); !allowed.ok()) return allowed;
  *reply = volumes_.Used(kWalkPatience);
  return grpc::Status::OK;
}

grpc::Status DpuRuntimeService::GetFile(grpc::ServerContext* context, const v1::GetFileRequest* request,
                                        v1::GetFileReply* reply) {
  if (grpc::Status allowed = Allowed(context); !allowed.ok()) return allowed;
  absl::StatusOr<std::string> data = volumes_.Get(*request);
  if (data.ok()) reply->set_data(*std::move(data));
  return ToGrpc(data.status());
}

grpc::Status DpuRuntimeService::LimitPod(grpc::ServerContext* context, const v1::LimitPodRequest* request,
                                         v1::LimitPodReply* reply) {
  if (grpc::Status allowed = Allowed(context); !allowed.ok()) return allowed;
  absl::StatusOr<std::vector<std::string>> missing = cgroups_.Limit(*request);
  if (missing.ok()) reply->mutable_missing()->Assign(missing->begin(), missing->end());
  return ToGrpc(missing.status());
}

grpc::Status DpuRuntimeService::About(grpc::ServerContext* context, const v1::AboutRequest*, v1::AboutReply* reply) {
  if (grpc::Status allowed = Allowed(context); !allowed.ok()) return allowed;
  reply->set_cgroup_v2(cgroups_.only_v2());
  return grpc::Status::OK;
}

grpc::Status DpuRuntimeService::RemovePod(grpc::ServerContext* context, const v1::RemovePodRequest* request,
                                          v1::RemovePodReply*) {
  if (grpc::Status allowed = Allowed(context); !allowed.ok()) return allowed;
  if (!request->log_directory().empty()) {
    if (absl::Status named = CheckName(request->log_directory()); !named.ok()) return ToGrpc(named);
    if (absl::Status removed = logs_.Remove(request->log_directory()); !removed.ok()) return ToGrpc(removed);
  }
  if (!request->cgroup_parent().empty()) {
    absl::Status removed = cgroups_.Remove(request->cgroup_parent(), request->pod_uid());
    if (removed.code() == absl::StatusCode::kInvalidArgument) return ToGrpc(removed);
    // An empty cgroup that is left harms nobody; a Pod that cannot be removed would.
    if (!removed.ok()) spdlog::warn("Pod {}: its cgroup stays: {}", request->pod_uid(), ToString(removed));
  }
  return ToGrpc(volumes_.RemovePod(request->pod_uid()));
}

// The caller may run any container here, so it gains nothing by a connection to loopback that it could not have anyway.
grpc::Status DpuRuntimeService::Stream(grpc::ServerContext* context,
                                       grpc::ServerReaderWriter<v1::StreamBytes, v1::StreamBytes>* stream) {
  if (grpc::Status allowed = Allowed(context); !allowed.ok()) return allowed;
  v1::StreamBytes first;
  if (!stream->Read(&first)) return grpc::Status(grpc::StatusCode::CANCELLED, "no first message");
  absl::StatusOr<RuntimeUrl> url = ParseRuntimeUrl(first.url());
  if (!url.ok()) return ToGrpc(url.status());
  absl::StatusOr<sys::UniqueFd> socket = Connect(*url);
  if (!socket.ok()) return ToGrpc(socket.status());
  if (send(socket->get(), first.data().data(), first.data().size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(first.data().size())) {  // a request's head fits in any socket's buffer
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the runtime's streaming server did not take the request");
  }
  auto read = [&](std::string* data, bool*) {
    v1::StreamBytes piece;
    if (!stream->Read(&piece)) return false;
    *data = std::move(*piece.mutable_data());
    return true;
  };
  auto write = [&](const std::string& data) {
    v1::StreamBytes piece;
    piece.set_data(data);
    return stream->Write(piece);
  };
  auto finish = [&] {
    v1::StreamBytes last;
    last.set_end(true);
    stream->Write(last);
  };
  Splice(socket->get(), {.read = read,
                         .write = write,
                         .finish = finish,
                         .cancel = [&] { context->TryCancel(); },
                         .alive = [&] { return !context->IsCancelled(); }});
  return grpc::Status::OK;
}

}  // namespace heterok8s::cri
