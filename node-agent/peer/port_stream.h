// The port stream's two ends over gRPC: the host dials, the DPU serves. What is said on it is PortSync's.
//
// Threading: each stream has the thread that reads it and one that writes it; nothing is held back to fill a message,
// a burst goes out as one. Ownership: borrows sync and channel. Errors: a stream that ends is dialled again, first
// after 50 ms, at most after 1 s.
//
//   PortDialer dialer(client.channel(), sync);        // host
//   return ServePortStream(sync, *context, *stream);   // DPU, in Peer.Ports
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/sync_stream.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>

#include "node-agent/peer/port_sync.h"
#include "proto/heterok8s/v1/peer.pb.h"

namespace heterok8s::peer {

// Until the caller goes away or another stream takes over.
grpc::Status ServePortStream(PortSync& sync, grpc::ServerContext& context,
                             grpc::ServerReaderWriter<v1::PortMessage, v1::PortMessage>& stream);

class PortDialer {
 public:
  PortDialer(std::shared_ptr<grpc::Channel> channel, PortSync& sync);
  ~PortDialer();
  PortDialer(const PortDialer&) = delete;
  PortDialer& operator=(const PortDialer&) = delete;

 private:
  void Run();

  const std::shared_ptr<grpc::Channel> channel_;
  PortSync& sync_;
  std::mutex mutex_;
  std::condition_variable stopped_changed_;
  bool stopped_ = false;
  grpc::ClientContext* current_ = nullptr;  // of the stream that is up
  std::thread thread_;                      // last: it uses all of the above
};

}  // namespace heterok8s::peer
