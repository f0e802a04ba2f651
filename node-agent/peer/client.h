// The other PU's heterod over gRPC: attach's PeerClient.
//
// Purpose: each call with a deadline, mutual TLS, the other side's own answer unchanged in code, message and payload.
// On the host Start() also runs the heartbeats; on the DPU the server feeds the lease from the host's.
// While the other side is away the connection is tried again all the time, not only when somebody calls.
// Threading: thread-safe. Ownership: borrows `lease` and the captures of `self_…`; one heartbeat thread, ended by
// Stop() or the destructor, and one that keeps the channel connected. Errors: kUnavailable and kDeadlineExceeded say
// nothing about whether the other side did it; "peer ADDRESS: CALL: …".
//
//   HK_ASSIGN_OR_RETURN(auto client, GrpcPeerClient::Create(options, lease));
//   client->StartHeartbeats();
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "common/rpc/channel_keeper.h"
#include "common/tls/credentials.h"
#include "node-agent/attach/peer.h"
#include "node-agent/peer/lease.h"
#include "proto/heterok8s/v1/peer.grpc.pb.h"

namespace heterok8s::peer {

struct ClientOptions {
  std::string address;  // of the other heterod, "192.0.2.2:7443"
  tls::Files files;
  tls::Identity server;  // whom we expect there
  std::chrono::milliseconds heartbeat_interval{1000};
  std::chrono::milliseconds lease_duration{5000};
  std::chrono::milliseconds call_deadline{10000};
  // Waits for what Prepare left to be done, 15 s at most where the kernel is slow, and then does its own.
  std::chrono::milliseconds commit_deadline{25000};
  uint64_t epoch = 0;  // of this heterod
  std::string boot_id;
  std::function<absl::Status()> self_ready;  // what heartbeats say about this side
  std::function<std::vector<attach::PodGeneration>()> self_halves;
};

class GrpcPeerClient final : public attach::PeerClient {
 public:
  static absl::StatusOr<std::unique_ptr<GrpcPeerClient>> Create(ClientOptions options, Lease& lease);
  ~GrpcPeerClient() override;

  void StartHeartbeats();
  void Stop();

  absl::StatusOr<attach::PrepareReply> Prepare(const attach::PrepareRequest& request,
                                               const attach::Meanwhile& meanwhile = nullptr) override;
  absl::Status CheckHalf(const attach::PodGeneration& pod) override;
  absl::Status Commit(const attach::PodGeneration& pod, const attach::Meanwhile& meanwhile = nullptr) override;
  absl::Status Remove(const attach::PodGeneration& pod) override;
  absl::StatusOr<attach::SyncReply> Sync(const attach::SyncRequest& request) override;
  absl::StatusOr<attach::ReserveReply> Reserve(const attach::ReserveRequest& request) override;
  absl::Status Release(const std::string& pod_key) override;
  attach::LeaseState lease() const override { return lease_.state(); }

  // For the port stream, which shares the connection.
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

 private:
  GrpcPeerClient(ClientOptions options, Lease& lease, std::shared_ptr<grpc::Channel> channel);
  template <typename Request, typename Reply>
  absl::StatusOr<Reply> Call(std::string_view name,
                             grpc::Status (v1::Peer::Stub::*method)(grpc::ClientContext*, const Request&, Reply*),
                             const Request& request, std::chrono::milliseconds deadline);
  // `send` is the stub's Async… of the call. No thread of its own: the request leaves on the calling thread before
  // `meanwhile`, the answer is read by it after.
  template <typename Reply, typename Send>
  absl::StatusOr<Reply> CallMeanwhile(std::string_view name, const Send& send, std::chrono::milliseconds deadline,
                                      const attach::Meanwhile& meanwhile);
  void SetUp(grpc::ClientContext& context, std::chrono::milliseconds deadline) const;
  absl::Status ResultOf(std::string_view name, const grpc::Status& status) const;
  void RunHeartbeats();

  const ClientOptions options_;
  Lease& lease_;
  const std::shared_ptr<grpc::Channel> channel_;
  // Also without a heartbeat of our own (the DPU's side) and between two of them: whoever returns is met soon after.
  rpc::ChannelKeeper keeper_;
  const std::unique_ptr<v1::Peer::Stub> stub_;
  std::mutex mutex_;
  std::condition_variable stopped_changed_;
  bool stopped_ = false;
  std::atomic<bool> sends_heartbeats_{false};
  std::thread heartbeats_;
};

}  // namespace heterok8s::peer
