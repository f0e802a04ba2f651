// The lease, told to other programs of this PU: gRPC PeerLease.
//
// Purpose: heterocri decides by the same heartbeats as heterod whether the DPU is there.
// Threading: each Watch keeps a thread of the server until its reader goes or Stop(). Ownership: borrows `lease`; must
// outlive the server. Errors: none; a reader is told UNAVAILABLE when heterod ends.
//
//   LeaseService service(lease);
//   builder.RegisterService(&service);
//   …
//   service.Stop();  // before the server's Shutdown, which would wait for the readers
#pragma once

#include <atomic>

#include "node-agent/peer/lease.h"
#include "proto/heterok8s/v1/lease.grpc.pb.h"

namespace heterok8s::peer {

v1::LeaseWord ToProto(const attach::LeaseState& state);

class LeaseService final : public v1::PeerLease::Service {
 public:
  explicit LeaseService(Lease& lease) : lease_(lease) {}
  void Stop();

  grpc::Status Watch(grpc::ServerContext* context, const v1::WatchLeaseRequest* request,
                     grpc::ServerWriter<v1::LeaseWord>* writer) override;

 private:
  Lease& lease_;
  std::atomic<bool> stopping_{false};
};

}  // namespace heterok8s::peer
