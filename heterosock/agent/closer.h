// Closes strangers' descriptors without waiting for them.
//
// A descriptor that a process handed over may take as long as it likes to close: a TCP socket with SO_LINGER whose last
// holder we have become, a file of somebody's FUSE. So closing happens on threads of its own, and a domain of which
// some are stuck gets no more of them.
// Threading: thread-safe. Ownership: takes the descriptors. Errors: false: this domain has too many that do not close.
//
//   if (!closer.Close(std::move(fd), domain)) Drop(session);
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "common/sys/unique_fd.h"

namespace heterok8s::heterosock::agent {

class Closer {
 public:
  // Does not wait for threads that are stuck in close(): the process is about to end, which ends them.
  ~Closer();
  Closer();
  Closer(const Closer&) = delete;
  Closer& operator=(const Closer&) = delete;

  // Takes it in any case; what a saturated domain gives waits until one of its others is closed.
  bool Close(sys::UniqueFd fd, const std::string& domain);
  // True while so many threads are stuck for this domain that it gets no more.
  bool Saturated(const std::string& domain) const;

 private:
  struct State;
  std::shared_ptr<State> state_;  // also held by threads that outlive this object
};

}  // namespace heterok8s::heterosock::agent
