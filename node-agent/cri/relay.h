// The DPU's end of CRI: passes /runtime.v1.RuntimeService/* and /runtime.v1.ImageService/* to the DPU's containerd as
// the bytes they came as. heterod --role=dpu serves it beside its own services, over mutual TLS.
//
// Threading: thread-safe; nothing blocks. Ownership: must outlive the server it is registered with. At most one Relay
// per server (gRPC takes one generic service).
// Errors: UNIMPLEMENTED for any other method; what `authorize` says for a caller it refuses; containerd's own answers,
// and UNAVAILABLE when it is down.
//
//   Relay relay({.socket = "/run/containerd/containerd.sock", .authorize = AllowRoles({"cri", "host"})});
//   relay.Register(builder);
#pragma once

#include "common/rpc/channel_keeper.h"
#include "node-agent/cri/byte_service.h"

namespace heterok8s::cri {

struct RelayOptions {
  std::string socket;  // of the containerd on this PU
  // Null: everybody who got through TLS.
  std::function<grpc::Status(const grpc::ServerContextBase&)> authorize;
};

class Relay {
 public:
  explicit Relay(RelayOptions options);
  void Register(grpc::ServerBuilder& builder);

 private:
  void Handle(std::shared_ptr<Call> call);

  RelayOptions options_;
  std::shared_ptr<grpc::Channel> channel_;
  rpc::ChannelKeeper keeper_;
  grpc::GenericStub stub_;
  ByteService service_;
};

bool IsCriMethod(const std::string& method);

// A channel to a CRI socket of this machine.
std::shared_ptr<grpc::Channel> UnixChannel(const std::string& socket);

}  // namespace heterok8s::cri
