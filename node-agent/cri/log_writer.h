// The thread that writes to the host's disk what logs bring.
//
// Purpose: a disk may stop for seconds. gRPC has few threads for callbacks, and every call of kubelet needs them; what
// waits for a disk waits here instead. One for all logs: they are on one disk, and a log that is not read any further
// holds its sender up.
// Threading: thread-safe; what is given runs on one thread, in order. Destruction runs what is left. Ownership: none.
// Errors: none.
//
//   writer.Do([this] { … write(file, …) … StartRead(&chunk_); });
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace heterok8s::cri {

class LogWriter {
 public:
  LogWriter() : thread_([this] { Loop(); }) {}
  ~LogWriter();

  void Do(std::function<void()> work);

 private:
  void Loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> waiting_;
  bool stop_ = false;
  std::thread thread_;  // last: it uses the rest
};

}  // namespace heterok8s::cri
