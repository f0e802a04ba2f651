// heterocri as an object: all its parts in the order of their lives, so that a test can run two in one process.
//
// Threading: Start once, Stop once. Ownership: owns everything. Errors: Start names what is missing; while the host's
// runtime does not answer it waits, until `stopping` says otherwise: a CRI socket that lists half of the containers
// would make kubelet start the other half again.
//
//   HK_ASSIGN_OR_RETURN(auto daemon, Daemon::Start(config, dpu_channel, [] { return false; }));
//   daemon->Stop();
#pragma once

#include <functional>
#include <memory>

#include "common/metrics/http_server.h"
#include "common/metrics/samples.h"
#include "common/rpc/channel_keeper.h"
#include "common/sys/unique_fd.h"
#include "node-agent/cri/byte_service.h"
#include "node-agent/cri/heterocri_config.h"
#include "node-agent/cri/router.h"

namespace heterok8s::cri {

// The channel to the DPU's heterod over mutual TLS.
absl::StatusOr<std::shared_ptr<grpc::Channel>> DpuChannel(const HeterocriConfig& config);

class Daemon {
 public:
  static absl::StatusOr<std::unique_ptr<Daemon>> Start(const HeterocriConfig& config,
                                                       std::shared_ptr<grpc::Channel> dpu,
                                                       std::function<bool()> stopping);
  ~Daemon();
  // Calls in flight get a moment to end.
  void Stop();
  // Whether its own socket is served: a call that needs no runtime gets its answer within some seconds.
  bool Answers();
  int metrics_port() const { return metrics_ ? metrics_->port() : 0; }

 private:
  class RouterService;
  Daemon(const HeterocriConfig& config, std::shared_ptr<grpc::Channel> dpu);
  absl::Status Connect();
  absl::Status Rebuild(const std::function<bool()>& stopping);
  absl::Status Serve();
  absl::Status ServeMetrics();
  void Handle(std::shared_ptr<Call> call);

  const HeterocriConfig config_;
  sys::UniqueFd lock_;
  // In order of use: the server goes first, then waiting calls, then what they use.
  std::shared_ptr<grpc::Channel> dpu_channel_;
  std::shared_ptr<grpc::Channel> host_channel_;
  rpc::ChannelKeeper dpu_keeper_, host_keeper_;
  CriClient host_;
  CriClient dpu_;
  std::unique_ptr<v1::DpuRuntime::Stub> runtime_;
  PodTable table_;
  ContainerEvents events_;
  SandboxMark mark_{""};  // until Connect
  // The mirror tells the link that a log has ended, and the link tells the mirror to go on: the later one by pointer.
  std::atomic<DpuLink*> link_of_mirror_{nullptr};
  LogMirror mirror_;
  Tasks tasks_;
  std::unique_ptr<DpuLink> link_;
  std::unique_ptr<StreamingServer> streaming_;
  std::unique_ptr<VolumeMirror> volumes_;
  std::unique_ptr<Router> router_;
  std::unique_ptr<RouterService> router_service_;
  std::unique_ptr<ByteService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<CriClient> self_;
  std::atomic<uint64_t> calls_{0}, unknown_{0};
  std::shared_ptr<metrics::LiveMetrics> figures_;
  std::unique_ptr<metrics::HttpServer> metrics_;
};

}  // namespace heterok8s::cri
