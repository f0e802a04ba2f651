#include "node-agent/peer/client.h"

#include <fmt/format.h>
#include <grpcpp/create_channel.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "common/rpc/status.h"
#include "node-agent/peer/convert.h"

namespace heterok8s::peer {
namespace {

// While the other side is away it is looked for this often, so that a restart costs little.
constexpr std::chrono::milliseconds kSearchInterval{200};
constexpr int kFirstBackoffMs = 50, kLongestBackoffMs = 200;
constexpr int kConnectMs = 1000;

grpc::ChannelArguments Arguments(const ClientOptions& options) {
  grpc::ChannelArguments arguments;
  tls::ExpectServer(arguments, options.server);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kFirstBackoffMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kLongestBackoffMs);
  // Despite its name: how long one attempt may take, the TLS handshake included; its default is 20 s.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectMs);
  // A machine that vanishes sends no RST: keepalive ends the connection, so that the next attempt makes a new one.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, static_cast<int>(options.lease_duration.count()));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, static_cast<int>(options.lease_duration.count()));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return arguments;
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcPeerClient>> GrpcPeerClient::Create(ClientOptions options, Lease& lease) {
  HK_ASSIGN_OR_RETURN(auto credentials, tls::ClientCredentials(options.files));
  auto channel = grpc::CreateCustomChannel(options.address, credentials, Arguments(options));
  return std::unique_ptr<GrpcPeerClient>(new GrpcPeerClient(std::move(options), lease, std::move(channel)));
}

GrpcPeerClient::GrpcPeerClient(ClientOptions options, Lease& lease, std::shared_ptr<grpc::Channel> channel)
    : options_(std::move(options)),
      lease_(lease),
      channel_(std::move(channel)),
      keeper_(channel_),
      stub_(v1::Peer::NewStub(channel_)) {}

GrpcPeerClient::~GrpcPeerClient() { Stop(); }

void GrpcPeerClient::StartHeartbeats() {
  sends_heartbeats_ = true;
  heartbeats_ = std::thread([this] { RunHeartbeats(); });
}

void GrpcPeerClient::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  stopped_changed_.notify_all();
  if (heartbeats_.joinable()) heartbeats_.join();
}

template <typename Request, typename Reply>
absl::StatusOr<Reply> GrpcPeerClient::Call(std::string_view name,
                                           grpc::Status (v1::Peer::Stub::*method)(grpc::ClientContext*, const Request&,
                                                                                  Reply*),
                                           const Request& request, std::chrono::milliseconds deadline) {
  grpc::ClientContext context;
  SetUp(context, deadline);
  Reply reply;
  HK_RETURN_IF_ERROR(ResultOf(name, (stub_.get()->*method)(&context, request, &reply)));
  return reply;
}

template <typename Reply, typename Send>
absl::StatusOr<Reply> GrpcPeerClient::CallMeanwhile(std::string_view name, const Send& send,
                                                    std::chrono::milliseconds deadline,
                                                    const attach::Meanwhile& meanwhile) {
  grpc::ClientContext context;
  SetUp(context, deadline);
  grpc::CompletionQueue queue;
  Reply reply;
  grpc::Status status;
  auto call = send(&context, &queue);
  call->Finish(&reply, &status, &reply);  // sends it: for a unary call gRPC keeps all of it back until here
  if (meanwhile) meanwhile();
  void* tag = nullptr;
  bool answered = false;
  queue.Next(&tag, &answered);  // at its deadline at the latest
  queue.Shutdown();
  while (queue.Next(&tag, &answered)) {  // as a queue's destructor asks for
  }
  HK_RETURN_IF_ERROR(ResultOf(name, status));
  return reply;
}

void GrpcPeerClient::SetUp(grpc::ClientContext& context, std::chrono::milliseconds deadline) const {
  context.set_deadline(std::chrono::system_clock::now() + deadline);
  // The DPU knows by the host's heartbeats that it is alive; its own connection may still pause after an attempt that
  // came too early. The side that sends heartbeats is to hear at once that nobody is there.
  context.set_wait_for_ready(!sends_heartbeats_ && lease_.state().valid);
}

absl::Status GrpcPeerClient::ResultOf(std::string_view name, const grpc::Status& status) const {
  if (status.ok()) return absl::OkStatus();
  const absl::Status result = rpc::FromGrpc(status);
  // The other heterod's answer is complete; the transport's words lack whom they are about.
  if (rpc::IsAnswer(status)) return result;
  return Annotate(result, fmt::format("peer {} at {}: {}", options_.server.Uri(), options_.address, name));
}

absl::StatusOr<attach::PrepareReply> GrpcPeerClient::Prepare(const attach::PrepareRequest& request,
                                                             const attach::Meanwhile& meanwhile) {
  const auto send = [this, wire = ToProto(request)](grpc::ClientContext* context, grpc::CompletionQueue* queue) {
    return stub_->AsyncPrepare(context, wire, queue);
  };
  HK_ASSIGN_OR_RETURN(v1::PrepareReply reply,
                      CallMeanwhile<v1::PrepareReply>("Prepare", send, options_.call_deadline, meanwhile));
  return FromProto(reply);
}

absl::Status GrpcPeerClient::Commit(const attach::PodGeneration& pod, const attach::Meanwhile& meanwhile) {
  const auto send = [this, wire = ToProto(pod)](grpc::ClientContext* context, grpc::CompletionQueue* queue) {
    return stub_->AsyncCommit(context, wire, queue);
  };
  return CallMeanwhile<v1::CommitReply>("Commit", send, options_.commit_deadline, meanwhile).status();
}

absl::Status GrpcPeerClient::CheckHalf(const attach::PodGeneration& pod) {
  return Call("Check", &v1::Peer::Stub::Check, ToProto(pod), options_.call_deadline).status();
}

absl::Status GrpcPeerClient::Remove(const attach::PodGeneration& pod) {
  return Call("Remove", &v1::Peer::Stub::Remove, ToProto(pod), options_.call_deadline).status();
}

absl::StatusOr<attach::SyncReply> GrpcPeerClient::Sync(const attach::SyncRequest& request) {
  HK_ASSIGN_OR_RETURN(v1::SyncReply reply,
                      Call("Sync", &v1::Peer::Stub::Sync, ToProto(request), options_.call_deadline));
  return FromProto(reply);
}

absl::StatusOr<attach::ReserveReply> GrpcPeerClient::Reserve(const attach::ReserveRequest& request) {
  HK_ASSIGN_OR_RETURN(v1::ReserveReply reply,
                      Call("Reserve", &v1::Peer::Stub::Reserve, ToProto(request), options_.call_deadline));
  return FromProto(reply);
}

absl::Status GrpcPeerClient::Release(const std::string& pod_key) {
  v1::ReleaseRequest request;
  request.set_pod_key(pod_key);
  return Call("Release", &v1::Peer::Stub::Release, request, options_.call_deadline).status();
}

void GrpcPeerClient::RunHeartbeats() {
  // A heartbeat that takes longer than this would leave no time for a second one within the lease.
  const auto deadline = std::max(options_.heartbeat_interval, options_.lease_duration / 3);
  bool was_good = true;
  std::unique_lock lock(mutex_);
  while (!stopped_) {
    lock.unlock();
    v1::HeartbeatRequest request;
    request.set_epoch(options_.epoch);
    request.set_boot_id(options_.boot_id);
    const absl::Status ready = options_.self_ready ? options_.self_ready() : absl::OkStatus();
    request.set_ready(ready.ok());
    if (!ready.ok()) request.set_not_ready_reason(Message(ready));
    if (ready.ok() && options_.self_halves) *request.mutable_halves() = ToProto(options_.self_halves());
    const auto sent = Lease::Clock::now();
    absl::StatusOr<v1::HeartbeatReply> reply = Call("Heartbeat", &v1::Peer::Stub::Heartbeat, request, deadline);
    if (reply.ok()) {
      lease_.Good(FromProto(*reply), sent);
    } else {
      lease_.Bad(reply.status());
    }
    if (reply.ok() != was_good) {
      if (reply.ok()) {
        spdlog::info("peer {} at {} answers (epoch {})", options_.server.Uri(), options_.address, reply->epoch());
      } else {
        spdlog::warn("heartbeat: {}, trying again until the lease expires and after", ToString(reply.status()));
      }
      was_good = reply.ok();
    }
    lock.lock();
    // Until both have reconciled the news that they have is due soon: no split Pod is made before.
    const bool settled = reply.ok() && reply->ready() && request.ready();
    const auto wait = settled ? options_.heartbeat_interval : std::min(options_.heartbeat_interval, kSearchInterval);
    stopped_changed_.wait_until(lock, sent + wait, [this] { return stopped_; });
  }
}

}  // namespace heterok8s::peer
