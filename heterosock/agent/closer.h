// Closes strangers' descriptors, and does what else lasts as long as they like, without waiting for it.
//
// A descriptor that a process handed over may take as long as it likes to close: a TCP socket with SO_LINGER whose last
// holder we have become, a file of somebody's FUSE, or a Unix socket in whose queue such a thing lies. So closing
// happens on threads of its own. One that lingers is cut short by a signal, after which the kernel goes on by itself,
// as it does for a process that exits (sk_stream_wait_close() and inet_release(), net/ipv4). For what no signal ends, a
// domain has a few threads, and one of them whatever others do: however many are hostile, an honest one's are closed.
// Threading: thread-safe. Ownership: takes the descriptors. SIGRTMIN is its own, in the whole process.
// Errors: false: this domain has too many that do not close.
//
//   if (!closer.Close(std::move(fd), domain)) Drop(session);
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/sys/unique_fd.h"

namespace heterok8s::heterosock::agent {

class Closer {
 public:
  // `close`: what closes one, on any thread.
  explicit Closer(std::function<void(sys::UniqueFd)> close = [](sys::UniqueFd fd) { fd.reset(); });
  // What ends a task, and must not be left half done; it must not block. Empty: nothing.
  using Rest = std::function<void()>;

  // Does not wait for threads that are stuck in close(): the process is about to end, which ends them. It does for what
  // has begun of a Rest, two seconds at most; none begins after that.
  ~Closer();
  Closer(const Closer&) = delete;
  Closer& operator=(const Closer&) = delete;

  // Takes it in any case; what a saturated domain gives waits until one of its others is closed.
  bool Close(sys::UniqueFd fd, const std::string& domain);
  // The same for another task, whose system calls may be interrupted. It may run after this object is gone, but for its
  // Rest, which is done by the same thread.
  bool Do(std::function<Rest()> task, const std::string& domain);
  // True while so many wait for this domain's threads that it had better bring no more.
  bool Saturated(const std::string& domain) const;
  // True while so many threads are stuck, for whomever, that no further domain should come.
  bool Full() const;

 private:
  struct State;
  std::shared_ptr<State> state_;  // also held by threads that outlive this object
};

}  // namespace heterok8s::heterosock::agent
