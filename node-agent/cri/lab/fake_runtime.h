// A CRI runtime in memory: sandboxes, containers and images as a containerd would show them, on a Unix socket.
//
// Purpose: what the containerd at hand cannot do (streams, events, a registry), and calls that a test wants to see.
// Threading: thread-safe. Ownership: owns its server; `with` is borrowed. Errors: the constructor fails the running
// test; a method that nobody gave it is UNIMPLEMENTED, as an older runtime's.
//
//   FakeRuntime host(folder + "/host.sock");
//   host.On("StreamContainers", [](std::shared_ptr<Call> call) { … });
//   CHECK(dpu.Asked("PullImage").size() == 1);
#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "node-agent/cri/byte_service.h"
#include "node-agent/cri/out_stream.h"
#include "proto/cri/v1/cri.pb.h"

namespace heterok8s::cri {

class FakeRuntime {
 public:
  using Handler = std::function<void(std::shared_ptr<Call>)>;

  FakeRuntime(std::string socket, std::string name, grpc::Service* with = nullptr);
  ~FakeRuntime() { Stop(); }
  void Start();
  void Stop();
  // While true every method is answered as a relay does whose runtime is away; `with` is served.
  void SetAway(bool away) { away_ = away; }
  // From now on every method is answered so much later; `with` is served at once.
  void SetSlow(std::chrono::milliseconds slow) { slow_ = slow; }
  const std::string& socket() const { return socket_; }

  void On(const std::string& method, Handler handler);        // "PullImage"
  std::vector<std::string> Asked(const std::string& method);  // the requests, in order

  // From now on GetContainerEvents is served, by what Emit is given.
  void ServeEvents();
  void Emit(const runtime::v1::ContainerEventResponse& event);
  size_t event_readers();

  // Ends a container by itself.
  void Exit(const std::string& container_id, int code);
  // As after a reboot of its computer: everything is listed, nothing runs.
  void Reboot();
  std::set<std::string> images();
  // `digest`: what a registry calls it, "repository@sha256:…"; empty: it came from a file.
  void AddImage(const std::string& name, const std::string& digest = "");

 private:
  void Handle(const std::shared_ptr<Call>& call);
  template <typename Request, typename Response>
  void Serve(const std::string& method, std::function<grpc::Status(const Request&, Response*)> serve);
  void ServeSandboxes();
  void ServeContainers();
  void ServeImages();
  std::string NewId();

  std::string socket_, name_;
  grpc::Service* with_;
  std::atomic<bool> away_{false};
  std::atomic<std::chrono::milliseconds> slow_{std::chrono::milliseconds(0)};
  std::recursive_mutex mutex_;
  std::map<std::string, Handler> handlers_;
  std::map<std::string, std::vector<std::string>> asked_;
  int serial_ = 0;
  std::map<std::string, runtime::v1::PodSandbox> sandboxes_;
  std::map<std::string, runtime::v1::Container> containers_;
  std::map<std::string, runtime::v1::ContainerStatus> statuses_;
  std::map<std::string, std::string> images_;  // digest by name
  std::vector<std::shared_ptr<OutStream>> readers_;
  std::vector<std::future<void>> late_;  // each waits for its thread
  std::unique_ptr<ByteService> service_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace heterok8s::cri
