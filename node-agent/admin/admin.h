// heteroctl's and heterocri's view of this heterod: gRPC Admin and PeerLease on a Unix socket that only root can open.
//
// Purpose: answers Status, Why and ListPods from what attach, ports and peer know, and tells the lease. Reads only,
// changes nothing.
// Threading: served on gRPC's threads. Ownership: borrows everything in AdminParts. Errors: Start: kUnavailable when
// the socket cannot be made. Calls: kNotFound names the Pods there are.
//
//   HK_ASSIGN_OR_RETURN(auto admin, AdminServer::Start("/run/heterok8s/admin.sock", parts));
#pragma once

#include <grpcpp/server.h>

#include <functional>
#include <memory>
#include <string>

#include "node-agent/attach/inspect.h"
#include "node-agent/attach/peer.h"
#include "node-agent/attach/spare_namespaces.h"
#include "node-agent/peer/lease_service.h"
#include "node-agent/peer/port_sync.h"
#include "node-agent/peer/refusals.h"
#include "node-agent/podnet/podnet.h"
#include "node-agent/ports/ports.h"
#include "node-agent/pu/backend.h"

namespace heterok8s::admin {

struct AdminParts {
  pu::Side role = pu::Side::kHost;
  std::string instance;
  uint64_t epoch = 0;
  int64_t started_unix_ms = 0;
  std::string metrics_address;
  std::string certificate;  // path of our own, for the metric that tells when it ends
  attach::Inspect* inspect = nullptr;
  attach::PeerClient* peer = nullptr;
  peer::Lease* lease = nullptr;  // told to who watches it
  ports::Ports* ports = nullptr;
  podnet::PodNet* podnet = nullptr;
  attach::SpareNamespaces* spares = nullptr;  // DPU
  peer::PortSync* port_sync = nullptr;
  peer::Refusals* refusals = nullptr;  // of calls to our port
  pu::Capabilities backend;
};

class AdminServer {
 public:
  static absl::StatusOr<std::unique_ptr<AdminServer>> Start(const std::string& socket, AdminParts parts);
  ~AdminServer();

 private:
  AdminServer() = default;
  std::unique_ptr<grpc::Service> service_;
  std::unique_ptr<peer::LeaseService> lease_;
  std::unique_ptr<grpc::Server> server_;  // after the services: it goes first
};

}  // namespace heterok8s::admin
