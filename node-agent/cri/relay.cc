#include "node-agent/cri/relay.h"

#include <fmt/format.h>

namespace heterok8s::cri {

bool IsCriMethod(const std::string& method) {
  return method.rfind("/runtime.v1.RuntimeService/", 0) == 0 || method.rfind("/runtime.v1.ImageService/", 0) == 0;
}

std::shared_ptr<grpc::Channel> UnixChannel(const std::string& socket) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kMaxMessageBytes);
  // A containerd that restarts is back within a second; gRPC's own back-off would grow to two minutes.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);  // despite its name: how long one attempt may take
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000);
  // Channels with equal arguments share connections: a pool per socket and purpose is not wanted here.
  arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "localhost");
  return grpc::CreateCustomChannel("unix:" + socket, grpc::InsecureChannelCredentials(), arguments);
}

Relay::Relay(RelayOptions options)
    : options_(std::move(options)),
      channel_(UnixChannel(options_.socket)),
      keeper_(channel_),
      stub_(channel_),
      service_([this](std::shared_ptr<Call> call) { Handle(std::move(call)); }) {}

void Relay::Register(grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
  builder.RegisterCallbackGenericService(&service_);
}

void Relay::Handle(std::shared_ptr<Call> call) {
  if (!IsCriMethod(call->method())) {
    call->Fail(grpc::StatusCode::UNIMPLEMENTED, fmt::format("unknown method '{}'", call->method()));
    return;
  }
  if (options_.authorize) {
    if (grpc::Status allowed = options_.authorize(call->context()); !allowed.ok()) {
      call->Finish(allowed, {});
      return;
    }
  }
  Forward(stub_, std::move(call), {});
}

}  // namespace heterok8s::cri
