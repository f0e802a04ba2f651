// This heterod's gRPC server for the other PU, over mutual TLS.
//
// Purpose: serves Peer (the half of its methods that this role has), checks who calls, and carries the other services
// of this PU (the DPU's CRI relay and log tail) on the same port. A connection that has shown no certificate within
// five seconds is closed.
// Threading: handlers run on gRPC's threads. Ownership: borrows everything in ServerParts; extra services must outlive
// the server. Errors: kUnavailable when the address cannot be listened on.
//
//   HK_ASSIGN_OR_RETURN(auto server, PeerServer::Start(options, {.dpu = &engine, .lease = &lease, .ports = &sync}));
#pragma once

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/tls/credentials.h"
#include "node-agent/attach/peer.h"
#include "node-agent/peer/lease.h"
#include "node-agent/peer/port_stream.h"
#include "node-agent/peer/refusals.h"

namespace heterok8s::peer {

struct ServerOptions {
  std::string listen;  // "192.0.2.1:7443"; port 0: see port()
  tls::Files files;
  std::string node;  // callers of other Nodes are refused
  uint64_t epoch = 0;
  std::string boot_id;
  std::function<int()> uplink_mtu;  // DPU role: what heartbeats say of this PU
};

struct ServerParts {
  attach::DpuHalf* dpu = nullptr;    // the DPU role
  attach::HostHalf* host = nullptr;  // the host role; exactly one of the two
  Lease* lease = nullptr;            // DPU role: fed by the heartbeats received
  PortSync* ports = nullptr;         // DPU role: the host dials the port stream
  Refusals* refusals = nullptr;      // required
  std::vector<std::function<void(grpc::ServerBuilder&)>> extra_services;
};

class PeerServer {
 public:
  static absl::StatusOr<std::unique_ptr<PeerServer>> Start(const ServerOptions& options, ServerParts parts);
  // Ends running calls; those that do not end within a second are cancelled.
  ~PeerServer();
  int port() const { return port_; }

 private:
  PeerServer() = default;
  std::unique_ptr<grpc::Service> service_;
  std::unique_ptr<grpc::Server> server_;  // after service_: it goes first
  int port_ = 0;
};

}  // namespace heterok8s::peer
