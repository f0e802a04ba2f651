// The MTU of the device by which this PU reaches the network: what the packets of new Pods must fit.
//
// Purpose: read again when asked, because a device may change, or come after us; but not for each of many Pods that
// come together.
// Threading: thread-safe; the calling thread is in this PU's root namespace. Errors: what cannot be read counts as it
// was read last.
//
//   UplinkMtu mtu;
//   mtu.Now();     // 1500; 0: there is no default route
#pragma once

#include <chrono>
#include <mutex>

namespace heterok8s::agent {

class UplinkMtu {
 public:
  int Now();  // bytes

 private:
  std::mutex mutex_;
  int last_ = 0;
  std::chrono::steady_clock::time_point read_at_{};
};

}  // namespace heterok8s::agent
