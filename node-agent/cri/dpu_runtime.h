// The gRPC service DpuRuntime: what heterocri needs from the DPU beside its containerd. heterod --role=dpu serves it.
//
// Threading: thread-safe; each TailLog and each Stream keeps a thread of the server until its caller goes or
// it is complete.
// Ownership: must outlive the server. Errors: see proto/heterok8s/v1/runtime.proto.
//
//   HK_ASSIGN_OR_RETURN(auto service, DpuRuntimeService::Open({.pod_log_root = …, .volume_root = …, .authorize = …}));
//   builder.RegisterService(service.get());
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "node-agent/cri/confined.h"
#include "node-agent/cri/pod_cgroups.h"
#include "node-agent/cri/volume_store.h"
#include "proto/heterok8s/v1/runtime.grpc.pb.h"

namespace heterok8s::cri {

struct DpuRuntimeOptions {
  std::string pod_log_root;  // where the DPU's containerd writes containers' logs
  std::string volume_root;   // made when missing
  // Absent: this machine's.
  std::optional<PodCgroups> cgroups = std::nullopt;
  // Null: everybody who got through TLS.
  std::function<grpc::Status(const grpc::ServerContextBase&)> authorize;
};

class DpuRuntimeService final : public v1::DpuRuntime::Service {
 public:
  static absl::StatusOr<std::unique_ptr<DpuRuntimeService>> Open(DpuRuntimeOptions options);

  grpc::Status TailLog(grpc::ServerContext* context, const v1::TailLogRequest* request,
                       grpc::ServerWriter<v1::LogChunk>* writer) override;
  grpc::Status PrepareLog(grpc::ServerContext* context, const v1::PrepareLogRequest* request,
                          v1::PrepareLogReply* reply) override;
  grpc::Status ReleaseLog(grpc::ServerContext* context, const v1::ReleaseLogRequest* request,
                          v1::ReleaseLogReply* reply) override;
  grpc::Status PutVolume(grpc::ServerContext* context, const v1::PutVolumeRequest* request,
                         v1::PutVolumeReply* reply) override;
  grpc::Status MakeVolume(grpc::ServerContext* context, const v1::MakeVolumeRequest* request,
                          v1::PutVolumeReply* reply) override;
  grpc::Status UsedByVolumes(grpc::ServerContext* context, const v1::UsedByVolumesRequest* request,
                             v1::UsedByVolumesReply* reply) override;
  grpc::Status GetFile(grpc::ServerContext* context, const v1::GetFileRequest* request,
                       v1::GetFileReply* reply) override;
  grpc::Status LimitPod(grpc::ServerContext* context, const v1::LimitPodRequest* request,
                        v1::LimitPodReply* reply) override;
  grpc::Status About(grpc::ServerContext* context, const v1::AboutRequest* request, v1::AboutReply* reply) override;
  grpc::Status RemovePod(grpc::ServerContext* context, const v1::RemovePodRequest* request,
                         v1::RemovePodReply* reply) override;
  grpc::Status Stream(grpc::ServerContext* context,
                      grpc::ServerReaderWriter<v1::StreamBytes, v1::StreamBytes>* stream) override;

 private:
  DpuRuntimeService(DpuRuntimeOptions options, ConfinedRoot logs, VolumeStore volumes, PodCgroups cgroups)
      : options_(std::move(options)),
        logs_(std::move(logs)),
        volumes_(std::move(volumes)),
        cgroups_(std::move(cgroups)) {}
  grpc::Status Allowed(grpc::ServerContext* context) const;

  DpuRuntimeOptions options_;
  ConfinedRoot logs_;
  VolumeStore volumes_;
  PodCgroups cgroups_;
};

}  // namespace heterok8s::cri
