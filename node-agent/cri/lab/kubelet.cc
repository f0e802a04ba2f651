#include "node-agent/cri/lab/kubelet.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

namespace heterok8s::cri {

namespace fs = std::filesystem;
namespace rt = runtime::v1;

std::string Text(const grpc::Status& status) {
  return status.ok() ? "OK" : fmt::format("{}: {}", static_cast<int>(status.error_code()), status.error_message());
}

std::vector<int> Numbers(const std::string& path) {
  std::vector<int> numbers;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line) && !file.eof();) {
    size_t at = line.find(" stdout F ");
    if (at != std::string::npos) numbers.push_back(std::atoi(line.c_str() + at + 10));
  }
  return numbers;
}

bool Consecutive(const std::vector<int>& numbers) {
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (numbers[i] != static_cast<int>(i)) return false;
  }
  return !numbers.empty();
}

std::string Kubelet::Run(const rt::PodSandboxConfig& pod) {
  rt::RunPodSandboxRequest request;
  *request.mutable_config() = pod;
  rt::RunPodSandboxResponse response;
  REQUIRE(Text(Ask(lab_.cri(), &CriStub::RunPodSandbox, request, &response)) == "OK");
  return response.pod_sandbox_id();
}

rt::CreateContainerRequest Kubelet::Request(const std::string& sandbox, const rt::PodSandboxConfig& pod,
                                            const std::string& name, const std::string& script) {
  rt::CreateContainerRequest request;
  request.set_pod_sandbox_id(sandbox);
  *request.mutable_sandbox_config() = pod;
  rt::ContainerConfig& config = *request.mutable_config();
  config.mutable_metadata()->set_name(name);
  config.mutable_image()->set_image("hk.test/busybox:1");
  for (const char* word : {"/bin/sh", "-c"}) config.add_command(word);
  config.add_command(script);
  config.set_log_path(name + "/0.log");
  fs::create_directories(pod.log_directory() + "/" + name);
  (*config.mutable_labels())["io.kubernetes.container.name"] = name;
  config.mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_pid(rt::CONTAINER);
  return request;
}

std::string Kubelet::Create(const rt::CreateContainerRequest& request) {
  rt::CreateContainerResponse response;
  REQUIRE(Text(Ask(lab_.cri(), &CriStub::CreateContainer, request, &response)) == "OK");
  return response.container_id();
}

void Kubelet::Start(const std::string& id) {
  rt::StartContainerRequest request;
  request.set_container_id(id);
  rt::StartContainerResponse response;
  REQUIRE(Text(Ask(lab_.cri(), &CriStub::StartContainer, request, &response)) == "OK");
}

grpc::Status Kubelet::Stop(const std::string& id) {
  rt::StopContainerRequest request;
  request.set_container_id(id);
  request.set_timeout(1);
  rt::StopContainerResponse response;
  return Ask(lab_.cri(), &CriStub::StopContainer, request, &response);
}

grpc::Status Kubelet::Remove(const std::string& id) {
  rt::RemoveContainerRequest request;
  request.set_container_id(id);
  rt::RemoveContainerResponse response;
  return Ask(lab_.cri(), &CriStub::RemoveContainer, request, &response);
}

rt::ContainerStatus Kubelet::Status(const std::string& id) {
  rt::ContainerStatusRequest request;
  request.set_container_id(id);
  rt::ContainerStatusResponse response;
  REQUIRE(Text(Ask(lab_.cri(), &CriStub::ContainerStatus, request, &response)) == "OK");
  return response.status();
}

std::map<std::string, rt::Container> Kubelet::List(CriStub& stub) {
  rt::ListContainersResponse response;
  REQUIRE(Text(Ask(stub, &CriStub::ListContainers, rt::ListContainersRequest(), &response)) == "OK");
  std::map<std::string, rt::Container> byname;
  for (const rt::Container& container : response.containers()) byname[container.metadata().name()] = container;
  return byname;
}

int Kubelet::Sandboxes(CriStub& stub) {
  rt::ListPodSandboxResponse response;
  REQUIRE(Text(Ask(stub, &CriStub::ListPodSandbox, rt::ListPodSandboxRequest(), &response)) == "OK");
  return response.items_size();
}

std::string Kubelet::Exec(const std::string& id, const std::string& script) {
  rt::ExecSyncRequest request;
  request.set_container_id(id);
  for (const std::string& word : {std::string("/bin/sh"), std::string("-c"), script}) request.add_cmd(word);
  request.set_timeout(10);
  rt::ExecSyncResponse response;
  REQUIRE(Text(Ask(lab_.cri(), &CriStub::ExecSync, request, &response)) == "OK");
  return response.stdout();
}

void Kubelet::End(const std::string& sandbox) {
  rt::StopPodSandboxRequest stop;
  stop.set_pod_sandbox_id(sandbox);
  rt::StopPodSandboxResponse stopped;
  REQUIRE(Text(Ask(lab_.cri(), &CriStub::StopPodSandbox, stop, &stopped)) == "OK");
  rt::RemovePodSandboxRequest remove;
  remove.set_pod_sandbox_id(sandbox);
  rt::RemovePodSandboxResponse removed;
  REQUIRE(Text(Ask(lab_.cri(), &CriStub::RemovePodSandbox, remove, &removed)) == "OK");
}

}  // namespace heterok8s::cri
