// The wire between the two heterods, without one: calls the other engine's handlers directly.
//
// Purpose: lets a test take the other side away, lose an answer on its way back, or run something in the middle of a
// call. A callee whose process dies inside the call is seen as a broken connection.
// Threading: thread-safe but for the set-up calls. Ownership: borrows the handlers.
//
//   FakePeer to_dpu(host_process, dpu_process);
//   to_dpu.SetDpu(&engine);
//   to_dpu.SetDown(true);                    // calls fail, the lease is expired
//   to_dpu.LoseAnswerOf("Prepare");          // done there, kDeadlineExceeded here; once
//   to_dpu.SetAnswersFirst(false);           // what the caller does meanwhile is done before the callee begins
#pragma once

#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <shared_mutex>
#include <string>

#include "node-agent/attach/peer.h"
#include "node-agent/attach/testing/fake_kernel.h"

namespace heterok8s::attach {

class FakePeer final : public PeerClient {
 public:
  FakePeer(Process& caller, Process& callee) : caller_(caller), callee_(callee) {}

  // Null: the other side is not there. Waits for calls that are in the old handler, which may then be destroyed.
  void SetDpu(DpuHalf* dpu) {
    std::unique_lock lock(handlers_);
    dpu_ = dpu;
  }
  void SetHost(HostHalf* host) {
    std::unique_lock lock(handlers_);
    host_ = host;
  }
  // `lease_too`: false is the time until the lease notices.
  void SetDown(bool down, bool lease_too = true) {
    std::lock_guard lock(mutex_);
    down_ = down;
    lease_expired_ = down && lease_too;
  }
  void SetPeerReady(bool ready) {
    std::lock_guard lock(mutex_);
    peer_ready_ = ready;
  }
  int uplink_mtu = 0;  // of the other side
  void LoseAnswerOf(const std::string& call) {
    std::lock_guard lock(mutex_);
    lose_.insert(call);
  }
  void SetAnswersFirst(bool first) {
    std::lock_guard lock(mutex_);
    answers_first_ = first;
  }
  // Runs before each call, on its thread.
  void SetHook(std::function<void(const std::string& call)> hook) {
    std::lock_guard lock(mutex_);
    hook_ = std::move(hook);
  }
  int calls(const std::string& call) const {
    std::lock_guard lock(mutex_);
    auto it = calls_.find(call);
    return it == calls_.end() ? 0 : it->second;
  }

  PrepareRequest last_prepare() const {
    std::lock_guard lock(mutex_);
    return last_prepare_;
  }

  absl::StatusOr<PrepareReply> Prepare(const PrepareRequest& r, const Meanwhile& meanwhile = nullptr) override {
    {
      std::lock_guard lock(mutex_);
      last_prepare_ = r;
    }
    return Call<absl::StatusOr<PrepareReply>>(
        "Prepare", &dpu_, [&] { return dpu_->Prepare(r); }, meanwhile);
  }
  absl::Status Commit(const PodGeneration& pod, const Meanwhile& meanwhile = nullptr) override {
    return Call<absl::Status>(
        "Commit", &dpu_, [&] { return dpu_->Commit(pod); }, meanwhile);
  }
  absl::Status CheckHalf(const PodGeneration& pod) override {
    return Call<absl::Status>("Check", &dpu_, [&] { return dpu_->CheckHalf(pod); });
  }
  absl::Status Remove(const PodGeneration& pod) override {
    return Call<absl::Status>("Remove", &dpu_, [&] { return dpu_->Remove(pod); });
  }
  absl::StatusOr<SyncReply> Sync(const SyncRequest& r) override {
    return Call<absl::StatusOr<SyncReply>>("Sync", &dpu_, [&] { return dpu_->Sync(r); });
  }
  absl::StatusOr<ReserveReply> Reserve(const ReserveRequest& r) override {
    return Call<absl::StatusOr<ReserveReply>>("Reserve", &host_, [&] { return host_->Reserve(r); });
  }
  absl::Status Release(const std::string& pod_key) override {
    return Call<absl::Status>("Release", &host_, [&] { return host_->Release(pod_key); });
  }

  LeaseState lease() const override {
    std::lock_guard lock(mutex_);
    LeaseState state{.valid = !lease_expired_,
                     .peer_ready = !lease_expired_ && peer_ready_,
                     .age = std::chrono::milliseconds(7),
                     .peer_uplink_mtu = uplink_mtu,
                     .address = "fake:1"};
    if (!state.peer_ready) state.last_error = lease_expired_ ? "no heartbeat" : "starting";
    return state;
  }

 private:
  template <typename Result, typename Handler, typename Fn>
  Result Call(const std::string& name, Handler* const* handler, Fn fn, const Meanwhile& meanwhile = nullptr) {
    HK_RETURN_IF_ERROR(caller_.Alive());
    std::function<void(const std::string&)> hook;
    {
      std::lock_guard lock(mutex_);
      hook = hook_;
    }
    if (hook) hook(name);
    std::shared_lock in_handler(handlers_);
    bool lose = false, answers_first = true;
    {
      std::lock_guard lock(mutex_);
      answers_first = answers_first_;
      ++calls_[name];
      if (down_ || *handler == nullptr || callee_.dead) return absl::UnavailableError("connection refused");
      lose = lose_.erase(name) > 0;
    }
    if (meanwhile && !answers_first) meanwhile();
    Result result = fn();
    if (meanwhile && answers_first) meanwhile();
    if (callee_.dead) return absl::UnavailableError("connection reset");
    HK_RETURN_IF_ERROR(caller_.Alive());
    if (lose) return absl::DeadlineExceededError("the answer is lost");
    return result;
  }

  Process& caller_;
  Process& callee_;
  std::shared_mutex handlers_;
  DpuHalf* dpu_ = nullptr;  // both guarded by handlers_
  HostHalf* host_ = nullptr;
  mutable std::mutex mutex_;
  std::function<void(const std::string&)> hook_;  // these are guarded by mutex_
  bool down_ = false, lease_expired_ = false, peer_ready_ = true, answers_first_ = true;
  std::set<std::string> lose_;
  std::map<std::string, int> calls_;
  PrepareRequest last_prepare_;
};

}  // namespace heterok8s::attach
