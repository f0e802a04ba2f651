// What a kubelet does with a CRI socket, for tests: each call must succeed, unless it returns its status.
//
// Threading: one thread. Ownership: borrows the lab. Errors: fail the running test.
//
//   Kubelet kubelet(lab);
//   std::string sandbox = kubelet.Run(pod);
//   kubelet.Start(kubelet.Create(kubelet.Request(sandbox, pod, "side", kCount)));
#pragma once

#include <map>
#include <string>
#include <vector>

#include "node-agent/cri/lab/two_runtimes.h"

namespace heterok8s::cri {

// Prints 0, 1, 2, … for ever.
inline constexpr const char* kCount = "i=0; while true; do echo $i; i=$((i+1)); sleep 0.02; done";

using CriStub = runtime::v1::RuntimeService::Stub;

// "OK", or code and message.
std::string Text(const grpc::Status& status);
// The numbers of a CRI log's whole lines "TIME stdout F N"; the last may be half written.
std::vector<int> Numbers(const std::string& path);
bool Consecutive(const std::vector<int>& numbers);  // 0, 1, 2, …; at least one

class Kubelet {
 public:
  explicit Kubelet(Lab& lab) : lab_(lab) {}

  std::string Run(const runtime::v1::PodSandboxConfig& pod);
  // Stops and removes it.
  void End(const std::string& sandbox);
  int Sandboxes(CriStub& stub);

  // A container that runs `script` in a shell, with its log below the Pod's log folder.
  runtime::v1::CreateContainerRequest Request(const std::string& sandbox, const runtime::v1::PodSandboxConfig& pod,
                                              const std::string& name, const std::string& script);
  std::string Create(const runtime::v1::CreateContainerRequest& request);
  void Start(const std::string& id);
  grpc::Status Stop(const std::string& id);
  grpc::Status Remove(const std::string& id);
  runtime::v1::ContainerStatus Status(const std::string& id);
  std::map<std::string, runtime::v1::Container> List(CriStub& stub);  // by name
  std::string Exec(const std::string& id, const std::string& script);

 private:
  Lab& lab_;
};

}  // namespace heterok8s::cri
