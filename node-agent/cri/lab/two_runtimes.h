// Two real containerds side by side, a DPU's heterod in small, and heterocri in front: for tests.
//
//   client ── heterocri (process) ──┬── containerd "host" (process, own network namespace)
//                                   ├── LabHeterod (here): heartbeats, while the DPU is served
//                                   └── mutual TLS ── Relay + DpuRuntime (here) ── containerd "dpu" (process, own
//                                   netns)
//
// Everything lives below one folder with this process's id in its name, and goes with the object.
// Threading: one thread. Errors: the constructor and the helpers fail the running test.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "common/testing/held_port.h"
#include "node-agent/cri/dpu_runtime.h"
#include "node-agent/cri/lab/lab_heterod.h"
#include "node-agent/cri/relay.h"
#include "proto/cri/v1/cri.grpc.pb.h"

namespace heterok8s::cri {

// A process in a group of its own, killed at the end.
class Child {
 public:
  Child() = default;
  Child(const std::vector<std::string>& argv, const std::string& log);
  Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  Child& operator=(Child&& other) noexcept;
  ~Child() { Kill(); }
  void Kill();       // SIGKILL, and reaped
  void Terminate();  // SIGTERM, and reaped

 private:
  int pid_ = -1;
};

class ContainerdUnderTest {
 public:
  ContainerdUnderTest(std::string folder, std::string subnet, const std::string& images);
  ~ContainerdUnderTest();
  void Start();
  void Kill() { process_.Kill(); }
  const std::string& socket() const { return socket_; }
  runtime::v1::RuntimeService::Stub& cri() { return *stub_; }

 private:
  std::string folder_, socket_, images_;
  Child process_;
  std::shared_ptr<grpc::Channel> channel_;
  rpc::ChannelKeeper keeper_;
  std::unique_ptr<runtime::v1::RuntimeService::Stub> stub_;
};

class Lab {
 public:
  // A DPU that is only slow, as every process of a busy machine is at times, must not be taken for lost.
  static constexpr std::chrono::seconds kLease{10};

  explicit Lab(std::chrono::milliseconds lease = kLease);
  ~Lab();

  void StartHeterocri();
  void KillHeterocri() { heterocri_.Kill(); }
  void ServeDpu();
  void StopDpu();                              // the DPU's heterod, not its containerd
  LabHeterod& heterod() { return *heterod_; }  // the host's

  runtime::v1::RuntimeService::Stub& cri() { return *runtime_; }
  runtime::v1::ImageService::Stub& images() { return *image_; }
  std::shared_ptr<grpc::Channel> channel() { return channel_; }
  const std::string& folder() const { return folder_; }
  const std::string& cgroup() const { return cgroup_; }

  // A Pod as kubelet lays it out below the lab's folder.
  runtime::v1::PodSandboxConfig Pod(const std::string& name);
  std::string PodFolder(const std::string& uid) const { return folder_ + "/pods/" + uid; }

  std::string folder_, cgroup_;

 private:
  std::string images_;

 public:
  std::unique_ptr<ContainerdUnderTest> host, dpu;

 private:
  testing::HeldPort port_;  // of the DPU's heterod
  std::unique_ptr<LabHeterod> heterod_;
  std::unique_ptr<DpuRuntimeService> dpu_runtime_;
  std::unique_ptr<Relay> relay_;
  std::unique_ptr<grpc::Server> dpu_server_;
  Child heterocri_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<rpc::ChannelKeeper> keeper_;
  std::unique_ptr<runtime::v1::RuntimeService::Stub> runtime_;
  std::unique_ptr<runtime::v1::ImageService::Stub> image_;
};

// A CRI call with a deadline. `T` is the response.
template <typename Stub, typename Request, typename Response>
grpc::Status Ask(Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                 const Request& request, Response* response, int seconds = 30) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(seconds));
  return (stub.*method)(&context, request, response);
}

}  // namespace heterok8s::cri
