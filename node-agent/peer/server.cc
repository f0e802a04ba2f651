#include "node-agent/peer/server.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <chrono>

#include "common/rpc/status.h"
#include "node-agent/peer/convert.h"
#include "proto/heterok8s/v1/peer.grpc.pb.h"

namespace heterok8s::peer {
namespace {

// Who has shown no certificate by then is sent away. Anybody may connect, and each connection in its handshake holds a
// descriptor and some 30 to 100 kB: with gRPC's own two minutes a caller could hold many at once. Our own clients give
// a handshake a second. A grpc::ResourceQuota would be no bound: gRPC 1.51 counts nothing of a handshake in it.
constexpr std::chrono::milliseconds kHandshakeTimeout{5000};

// Who may call what: the host calls the DPU's half, the DPU the host's. A refusal is logged and counted: it is a
// misconfiguration or an attack.
grpc::Status Allow(const grpc::ServerContext& context, const std::string& node, Refusals* refusals, tls::Role role,
                   std::string_view method) {
  grpc::Status status = refusals->Counted(tls::RequirePeer(context, node, {role}));
  if (!status.ok()) spdlog::warn("refused {} from {}: {}", method, context.peer(), status.error_message());
  return status;
}

class DpuService final : public v1::Peer::Service {
 public:
  DpuService(ServerOptions options, ServerParts parts) : options_(std::move(options)), parts_(std::move(parts)) {}

  grpc::Status Heartbeat(grpc::ServerContext* context, const v1::HeartbeatRequest* request,
                         v1::HeartbeatReply* reply) override {
    if (grpc::Status s = Allow(*context, options_.node, parts_.refusals, tls::Role::kHost, "Heartbeat"); !s.ok())
      return s;
    parts_.lease->Good(FromProto(*request), Lease::Clock::now());
    reply->set_epoch(options_.epoch);
    reply->set_boot_id(options_.boot_id);
    const absl::Status ready = parts_.dpu->Ready();
    reply->set_ready(ready.ok());
    if (!ready.ok()) reply->set_not_ready_reason(Message(ready));
    if (options_.uplink_mtu) reply->set_uplink_mtu(options_.uplink_mtu());
    if (ready.ok()) *reply->mutable_halves() = ToProto(parts_.dpu->Halves());
    return grpc::Status::OK;
  }

  grpc::Status Prepare(grpc::ServerContext* context, const v1::PrepareRequest* request,
                       v1::PrepareReply* reply) override {
    if (grpc::Status s = Allow(*context, options_.node, parts_.refusals, tls::Role::kHost, "Prepare"); !s.ok())
      return s;
    absl::StatusOr<attach::PrepareRequest> parsed = FromProto(*request);
    if (!parsed.ok()) return rpc::ToGrpc(parsed.status());
    absl::StatusOr<attach::PrepareReply> answer = parts_.dpu->Prepare(*parsed);
    if (!answer.ok()) return rpc::ToGrpc(answer.status());
    *reply = ToProto(*answer);
    return grpc::Status::OK;
  }

  grpc::Status Commit(grpc::ServerContext* context, const v1::PodGeneration* request, v1::CommitReply*) override {
    if (grpc::Status s = Allow(*context, options_.node, parts_.refusals, tls::Role::kHost, "Commit"); !s.ok()) return s;
    return rpc::ToGrpc(parts_.dpu->Commit(FromProto(*request)));
  }

  grpc::Status Remove(grpc::ServerContext* context, const v1::PodGeneration* request, v1::RemoveReply*) override {
    if (grpc::Status s = Allow(*context, options_.node, parts_.refusals, tls::Role::kHost, "Remove"); !s.ok()) return s;
    return rpc::ToGrpc(parts_.dpu->Remove(FromProto(*request)));
  }

  grpc::Status Check(grpc::ServerContext* context, const v1::PodGeneration* request, v1::CheckReply*) override {
    if (grpc::Status s = Allow(*context, options_.node, parts_.refusals, tls::Role::kHost, "Check"); !s.ok()) return s;
    return rpc::ToGrpc(parts_.dpu->CheckHalf(FromProto(*request)));
  }

  grpc::Status Sync(grpc::ServerContext* context, const v1::SyncRequest* request, v1::SyncReply* reply) override {
    if (grpc::Status s = Allow(*context, options_.node, parts_.refusals, tls::Role::kHost, "Sync"); !s.ok()) return s;
    absl::StatusOr<attach::SyncReply> answer = parts_.dpu->Sync(FromProto(*request));
    if (!answer.ok()) return rpc::ToGrpc(answer.status());
    *reply = ToProto(*answer);
    return grpc::Status::OK;
  }

  grpc::Status Ports(grpc::ServerContext* context,
                     grpc::ServerReaderWriter<v1::PortMessage, v1::PortMessage>* stream) override {
    if (grpc::Status s = Allow(*context, options_.node, parts_.refusals, tls::Role::kHost, "Ports"); !s.ok()) return s;
    return ServePortStream(*parts_.ports, *context, *stream);
  }

 private:
  const ServerOptions options_;
  const ServerParts parts_;
};

class HostService final : public v1::Peer::Service {
 public:
  HostService(ServerOptions options, ServerParts parts) : options_(std::move(options)), parts_(std::move(parts)) {}

  grpc::Status Reserve(grpc::ServerContext* context, const v1::ReserveRequest* request,
                       v1::ReserveReply* reply) override {
    if (grpc::Status s = Allow(*context, options_.node, parts_.refusals, tls::Role::kDpu, "Reserve"); !s.ok()) return s;
    absl::StatusOr<attach::ReserveReply> answer = parts_.host->Reserve(FromProto(*request));
    if (!answer.ok()) return rpc::ToGrpc(answer.status());
    *reply = ToProto(*answer);
    return grpc::Status::OK;
  }

  grpc::Status Release(grpc::ServerContext* context, const v1::ReleaseRequest* request, v1::ReleaseReply*) override {
    if (grpc::Status s = Allow(*context, options_.node, parts_.refusals, tls::Role::kDpu, "Release"); !s.ok()) return s;
    return rpc::ToGrpc(parts_.host->Release(request->pod_key()));
  }

 private:
  const ServerOptions options_;
  const ServerParts parts_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<PeerServer>> PeerServer::Start(const ServerOptions& options, ServerParts parts) {
  HK_ASSIGN_OR_RETURN(auto credentials, tls::ServerCredentials(options.files));
  auto self = std::unique_ptr<PeerServer>(new PeerServer);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(options.listen, credentials, &self->port_);
  // Two heterods on one address must be an error, not a lottery.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // The other side pings to notice a vanished machine; gRPC would take that for abuse.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 50);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, static_cast<int>(kHandshakeTimeout.count()));
  for (const auto& add : parts.extra_services) add(builder);
  if (parts.dpu != nullptr) {
    self->service_ = std::make_unique<DpuService>(options, std::move(parts));
  } else {
    self->service_ = std::make_unique<HostService>(options, std::move(parts));
  }
  builder.RegisterService(self->service_.get());
  self->server_ = builder.BuildAndStart();
  if (self->server_ == nullptr || self->port_ == 0) {
    return absl::UnavailableError(fmt::format("cannot listen on {}", options.listen));
  }
  return self;
}

PeerServer::~PeerServer() {
  if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(1));
}

}  // namespace heterok8s::peer
