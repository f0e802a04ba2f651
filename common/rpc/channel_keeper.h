// Keeps a gRPC channel connected, so that the first call after the other end's restart finds it.
//
// A channel works on its connection only while some call waits on it, or every five seconds. Calls that fail at once
// while the other end is away never wait, so without this a runtime that is back within 100 ms is seen seconds later.
// Threading: a thread of its own. Ownership: shares the channel; destruction takes up to kLook.
//
//   ChannelKeeper keeper(channel);
#pragma once

#include <grpcpp/channel.h>

#include <atomic>
#include <memory>
#include <thread>

namespace heterok8s::rpc {

class ChannelKeeper {
 public:
  explicit ChannelKeeper(std::shared_ptr<grpc::Channel> channel)
      : channel_(std::move(channel)), thread_([this] { Loop(); }) {}
  ~ChannelKeeper() {
    stop_ = true;
    thread_.join();
  }

 private:
  static constexpr std::chrono::milliseconds kLook{300};
  void Loop() {
    while (!stop_) {
      grpc_connectivity_state state = channel_->GetState(/*try_to_connect=*/true);
      channel_->WaitForStateChange(state, std::chrono::system_clock::now() + kLook);
    }
  }

  std::shared_ptr<grpc::Channel> channel_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace heterok8s::rpc
