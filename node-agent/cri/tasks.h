// Threads for calls that wait, counted, so that the program ends only after them.
//
// Threading: thread-safe. Destruction waits for all tasks; each has a deadline of its own.
//
//   if (!tasks.Run([call] { … })) call->Fail(grpc::StatusCode::RESOURCE_EXHAUSTED, …);
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>

namespace heterok8s::cri {

class Tasks {
 public:
  // More Pods than this starting at the same moment are beyond what a kubelet allows on one Node.
  static constexpr int kMostAtOnce = 512;

  ~Tasks() { Wait(); }
  // False when there are too many, or after Wait.
  bool Run(std::function<void()> task);
  void Wait();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int running_ = 0;
  bool closed_ = false;
};

}  // namespace heterok8s::cri
