// The locks of the registrations, held for a scope. Private to epoll/.
//
// Threading: the pool's lock first, then an instance's, then those of slots. A second instance's only under the pool's.
// Errors: false in a signal handler that interrupted the holder; then nothing may be touched.
//
//   const PoolGuard guard;
//   if (!guard) return;
#pragma once

#include <stdint.h>

#include "heterosock/epoll/active.h"
#include "heterosock/epoll/pool.h"
#include "heterosock/lib/quiet.h"

namespace heterok8s::heterosock {

// The pool's lock, with signals blocked: a registration that is half done cannot be put right.
class PoolGuard {
 public:
  PoolGuard() : held_(Pool::Lock().Acquire()) {}
  ~PoolGuard() {
    if (held_) Pool::Lock().Release();
  }
  explicit operator bool() const { return held_; }

 private:
  const SignalsBlocked quiet_;
  bool held_;
};

// The pool's lock alone: to look, and for changes of single items.
class PoolLock {
 public:
  PoolLock() : held_(Pool::Lock().Acquire()) {
    if (held_ && Pool::Lock().Left()) Pool::Lock().Repaired();
  }
  ~PoolLock() {
    if (held_) Pool::Lock().Release();
  }
  explicit operator bool() const { return held_; }

 private:
  bool held_;
};

// The lock of an instance.
class Guard {
 public:
  explicit Guard(uint32_t instance) : lock_(Pool::InstanceAt(instance).lock), held_(LockInstance(instance)) {}
  ~Guard() {
    if (held_) lock_.Release();
  }
  // False in a signal handler that interrupted us: then nothing may be touched.
  explicit operator bool() const { return held_; }

 private:
  SharedLock& lock_;
  bool held_;
};

}  // namespace heterok8s::heterosock
