// heterocri in this process between two runtimes in memory, with the DPU's real DpuRuntime service: for tests.
//
//   client ── Unix ──▶ Daemon ──┬── Unix ──▶ FakeRuntime "host"
//                               ├── Unix ──▶ FakeRuntime "dpu" + DpuRuntimeService
//                               └── Unix ──▶ LabHeterod
//
// Threading: one thread. Everything is below one folder with this process's id in its name, and goes with the object.
// Errors: fail the running test.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/testing/eventually.h"
#include "node-agent/cri/daemon.h"
#include "node-agent/cri/dpu_runtime.h"
#include "node-agent/cri/lab/fake_runtime.h"
#include "node-agent/cri/lab/lab_heterod.h"
#include "proto/cri/v1/cri.grpc.pb.h"

namespace heterok8s::cri {

class TwoFakes {
 public:
  static constexpr std::chrono::milliseconds kLease{5000};

  // The DPU is there, and has this version of cgroups.
  explicit TwoFakes(bool cgroup_v2 = true, std::chrono::milliseconds lease = kLease);
  ~TwoFakes();

  FakeRuntime& host() { return *host_; }
  FakeRuntime& dpu() { return *dpu_; }
  LabHeterod& heterod() { return *heterod_; }
  CriClient& cri() { return *client_; }
  std::shared_ptr<grpc::Channel> channel() { return channel_; }
  void StopDaemon() { daemon_.reset(); }
  void StartDaemon();                                    // until it says that the DPU is there
  const std::string& folder() const { return folder_; }  // the DPU's cgroups are dpu/cgroup

  runtime::v1::RuntimeCondition DpuCondition();  // what kubelet is told of the DPU

  runtime::v1::PodSandboxConfig PodConfig(const std::string& name) const;  // fallback: pending
  std::string RunPod(const runtime::v1::PodSandboxConfig& config);         // its sandbox on the host
  absl::StatusOr<std::string> TryRunPod(const runtime::v1::PodSandboxConfig& config);
  // "side" runs on the DPU, any other name on the host.
  runtime::v1::CreateContainerRequest Request(const std::string& sandbox, const runtime::v1::PodSandboxConfig& pod,
                                              const std::string& name,
                                              const std::string& image = "registry.example/tool:1");
  std::string Create(const std::string& sandbox, const runtime::v1::PodSandboxConfig& pod, const std::string& name,
                     const std::string& image = "registry.example/tool:1");
  absl::StatusOr<std::string> TryCreate(const runtime::v1::CreateContainerRequest& request);
  void Start(const std::string& container);
  runtime::v1::ContainerStatus StatusOf(const std::string& container);

  template <typename Response, typename Request>
  Response Call(const std::string& method, const Request& request) {
    auto response = client_->Call<Response>(method, request, In(testing::kPatience));
    if (!response.ok()) throw std::runtime_error(ToString(response.status()));
    return *response;
  }

  // All messages of a call with many answers, and how it ended.
  struct Streamed {
    std::vector<std::string> messages;
    grpc::Status status;
  };
  Streamed ReadAll(const std::string& method);

 private:
  std::string folder_;
  std::unique_ptr<DpuRuntimeService> dpu_runtime_;
  std::unique_ptr<FakeRuntime> host_, dpu_;
  std::unique_ptr<LabHeterod> heterod_;
  HeterocriConfig config_;
  std::unique_ptr<Daemon> daemon_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<CriClient> client_;
};

// Reads GetContainerEvents on a thread of its own.
class EventReader {
 public:
  explicit EventReader(TwoFakes& node);
  ~EventReader();
  bool Has(const std::function<bool(const runtime::v1::ContainerEventResponse&)>& that);
  std::vector<runtime::v1::ContainerEventType> TypesOf(const std::string& container_id);
  bool Ended(grpc::Status* status);

 private:
  grpc::ClientContext context_;
  std::mutex mutex_;
  std::vector<runtime::v1::ContainerEventResponse> events_;
  std::optional<grpc::Status> end_;
  std::unique_ptr<runtime::v1::RuntimeService::Stub> stub_;
  std::thread thread_;
};

}  // namespace heterok8s::cri
