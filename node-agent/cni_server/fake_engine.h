// An engine that remembers attachments in a map and answers like the real one; calls can be held up.
//
//   FakeEngine engine;
//   engine.hold.Close();             // the next calls wait inside the engine
//   engine.WaitForCalls(1);
//   engine.hold.Open();
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "node-agent/attach/engine.h"

namespace heterok8s::cni_server {

class Gate {
 public:
  void Close() { Set(false); }
  void Open() { Set(true); }
  void Pass() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(60), [&] { return open_; });
  }

 private:
  void Set(bool open) {
    std::lock_guard lock(mutex_);
    open_ = open;
    changed_.notify_all();
  }
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = true;
};

class FakeEngine : public attach::Engine {
 public:
  Gate hold;

  absl::StatusOr<cni::Result> Add(const cni::Request& request) override {
    Note("ADD", request);
    std::lock_guard lock(mutex_);
    HK_RETURN_IF_ERROR(TakeFailure());
    if (!attached_.insert(Key(request)).second) return cni::MakeError(cni::kInterfaceExists, "exists");
    cni::Result result;
    result.interfaces = {{.name = request.ifname, .sandbox = request.netns, .mtu = 1500}};
    result.ips = {{.address = *IpPrefix::Parse("10.88.0.5/32"), .interface = 0}};
    return result;
  }
  absl::Status Del(const cni::Request& request) override {
    Note("DEL", request);
    std::lock_guard lock(mutex_);
    HK_RETURN_IF_ERROR(TakeFailure());
    attached_.erase(Key(request));
    return absl::OkStatus();
  }
  absl::Status Check(const cni::Request& request) override {
    Note("CHECK", request);
    std::lock_guard lock(mutex_);
    return attached_.contains(Key(request)) ? absl::OkStatus() : cni::MakeError(cni::kUnknownContainer, "no such");
  }
  absl::Status Gc(const cni::Request& request) override {
    Note("GC", request);
    return absl::OkStatus();
  }
  absl::Status Status(const cni::Request& request) override {
    Note("STATUS", request);
    std::lock_guard lock(mutex_);
    return TakeFailure();
  }

  void FailNext(absl::Status status) {
    std::lock_guard lock(mutex_);
    failure_ = std::move(status);
  }
  // "ADD c1 eth0" for each call so far, once there are `count` of them.
  std::vector<std::string> WaitForCalls(size_t count) {
    std::unique_lock lock(mutex_);
    called_.wait_for(lock, std::chrono::seconds(60), [&] { return calls_.size() >= count; });
    return calls_;
  }
  size_t attached() {
    std::lock_guard lock(mutex_);
    return attached_.size();
  }

 private:
  static std::string Key(const cni::Request& request) { return request.container_id + " " + request.ifname; }
  void Note(const std::string& verb, const cni::Request& request) {
    {
      std::lock_guard lock(mutex_);
      calls_.push_back(verb + " " + Key(request));
      called_.notify_all();
    }
    hold.Pass();
  }
  absl::Status TakeFailure() { return std::exchange(failure_, absl::OkStatus()); }

  std::mutex mutex_;
  std::condition_variable called_;
  std::set<std::string> attached_;
  std::vector<std::string> calls_;
  absl::Status failure_;
};

}  // namespace heterok8s::cni_server
