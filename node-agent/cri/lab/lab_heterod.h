// heterod on the host in small, for tests: the real lease and the real PeerLease service, on heartbeats of its own.
//
// Threading: one test thread; a thread for heartbeats. Ownership: owns its server. Errors: fail the running test.
//
//   LabHeterod heterod(folder + "/heterod.sock", std::chrono::seconds(5));
//   heterod.SetDpuAlive(false);  // lost, a lease later
#pragma once

#include <grpcpp/server.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "node-agent/peer/lease_service.h"

namespace heterok8s::cri {

class LabHeterod {
 public:
  LabHeterod(std::string socket, std::chrono::milliseconds lease);
  ~LabHeterod();

  const std::string& socket() const { return socket_; }
  void SetDpuAlive(bool alive) { dpu_alive_ = alive; }
  void Stop();
  void Start();  // as a heterod that has heard nothing yet

 private:
  const std::string socket_;
  const std::chrono::milliseconds duration_;
  std::atomic<bool> dpu_alive_{true}, stop_{false};
  std::unique_ptr<peer::Lease> lease_;
  std::unique_ptr<peer::LeaseService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::thread heartbeats_;
};

}  // namespace heterok8s::cri
