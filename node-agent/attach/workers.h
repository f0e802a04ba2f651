// Threads that are kept for the pieces of an attach that can be done at the same time.
//
// Purpose: an attach hands out half a dozen pieces of a millisecond or less. A thread that is there starts sooner than
// one that is made, and does not have to be taken down in the middle of the rest. Threading: thread-safe. Every job has
// a thread at once: there are as many as jobs, so jobs may wait for each other. Up to kKept idle ones stay for kRest:
// an attach rarely comes alone, and a thread keeps what it freed for itself until it ends. Where the kernel gives no
// thread, Start and Post do the job before they return. Ownership: a Running waits for its job when it
// goes out of scope, so the job may use what lives around it. Posted jobs are waited for by the destructor of Workers;
// what they use outlives it. Errors: none of its own; a job returns its own.
//
//   Workers::Running<absl::Status> synced = workers_.Start([this] { return journal_.Sync(); });
//   …
//   HK_RETURN_IF_ERROR(synced.Get());
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <future>
#include <list>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>

namespace heterok8s::attach {

class Workers {
 public:
  static constexpr size_t kKept = 4;  // as many as one attach uses
  static constexpr std::chrono::seconds kRest{3};

  template <typename Result>
  class Running {
   public:
    Running() = default;
    Running(Running&&) = default;
    Running& operator=(Running&& other) {
      Wait();
      result_ = std::move(other.result_);
      return *this;
    }
    ~Running() { Wait(); }

    bool valid() const { return result_.valid(); }  // false by default, and after Get()
    Result Get() { return result_.get(); }

   private:
    friend class Workers;
    explicit Running(std::future<Result> result) : result_(std::move(result)) {}
    void Wait() {
      if (result_.valid()) result_.wait();
    }
    std::future<Result> result_;
  };

  Workers() = default;
  Workers(const Workers&) = delete;
  ~Workers();

  template <typename Job>
  Running<std::invoke_result_t<Job>> Start(Job job) {
    std::packaged_task<std::invoke_result_t<Job>()> task(std::move(job));
    auto result = task.get_future();
    Post(std::packaged_task<void()>([task = std::move(task)]() mutable { task(); }));
    return Running<std::invoke_result_t<Job>>(std::move(result));
  }
  void Post(std::packaged_task<void()> job);

 private:
  using Threads = std::list<std::thread>;

  void Work(Threads::iterator self);

  std::mutex mutex_;
  std::condition_variable wanted_, ended_changed_;
  std::deque<std::packaged_task<void()>> jobs_;  // all of these are guarded by mutex_
  Threads threads_, ended_;
  size_t idle_ = 0;
  bool stop_ = false;
};

}  // namespace heterok8s::attach
