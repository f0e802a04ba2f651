// heterocri's streaming server: where kubelet connects for Exec and Attach in a container on the DPU.
//
// Purpose: the DPU's runtime answers Exec with a URL that only the DPU can reach. This server, on loopback, takes
// kubelet's connection for it and passes it on through the agents' channel. It reads the head of the first request, to
// find out which session is meant, and not a byte more.
// Threading: thread-safe. A thread accepts; each session has two. Ownership: borrows the stub. Destruction ends all
// sessions, within kLinger. Errors: Start when there is no port; kResourceExhausted when too many URLs are open.
//
//   HK_ASSIGN_OR_RETURN(auto server, StreamingServer::Start(stub, [&] { return link.Valid(); }));
//   HK_ASSIGN_OR_RETURN(std::string url, server->Offer(dpu_url));   // "http://127.0.0.1:40123/exec/<token>"
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "common/status/status.h"
#include "common/sys/unique_fd.h"
#include "proto/heterok8s/v1/runtime.grpc.pb.h"

namespace heterok8s::cri {

class StreamingServer {
 public:
  // `alive`: false ends every session that goes to the DPU.
  static absl::StatusOr<std::unique_ptr<StreamingServer>> Start(v1::DpuRuntime::StubInterface& stub,
                                                                std::function<bool()> alive);
  ~StreamingServer() { Stop(); }
  void Stop();

  // A URL for one connection within kTokenLife, which goes to `dpu_url`.
  absl::StatusOr<std::string> Offer(const std::string& dpu_url);
  int port() const { return port_; }
  size_t sessions() const;

  static constexpr std::chrono::seconds kTokenLife{60};  // as long as containerd's own
  static constexpr size_t kMostOffers = 1000;            // as containerd
  static constexpr size_t kMostSessions = 256;

 private:
  struct Target {
    std::string url, path;
    std::chrono::steady_clock::time_point until;
  };
  StreamingServer(v1::DpuRuntime::StubInterface& stub, std::function<bool()> alive)
      : stub_(stub), alive_(std::move(alive)) {}
  void Accept();
  void Serve(sys::UniqueFd socket);
  absl::StatusOr<Target> Take(const std::string& path);
  void Session(int socket, const Target& target, const std::string& head);
  void CancelSessions();

  v1::DpuRuntime::StubInterface& stub_;
  std::function<bool()> alive_;
  sys::UniqueFd listener_;
  int port_ = 0;
  std::atomic<bool> stop_{false};
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Target> offers_;  // by our path
  size_t sessions_ = 0;
  std::set<grpc::ClientContext*> calls_;  // of the sessions: one may be waiting in it for the DPU
  std::thread thread_;
};

}  // namespace heterok8s::cri
