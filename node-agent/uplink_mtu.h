// The MTU of the device by which this PU reaches the network: what the packets of new Pods must fit.
//
// Purpose: a device may change, or come after us, so it is read every second, on a thread of its own: the kernel's lock
// of network settings can be taken for seconds, and neither a heartbeat nor a Pod's ADD is to wait for that.
// Threading: thread-safe; the thread is in the network namespace of whoever calls Start.
// Errors: what cannot be read counts as it was read last.
//
//   UplinkMtu mtu;
//   mtu.Start();
//   mtu.Last();     // 1500; 0: there is no default route
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace heterok8s::agent {

class UplinkMtu {
 public:
  UplinkMtu() = default;
  ~UplinkMtu();

  void Start();                       // once; has read it when it returns
  int Last() const { return last_; }  // bytes

 private:
  void ReadNow();

  std::atomic<int> last_{0};
  std::mutex mutex_;
  std::condition_variable stopped_;
  bool stop_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace heterok8s::agent
