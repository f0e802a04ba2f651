// Namespaces, of which the next ones are made ahead.
//
// Purpose: the kernel takes most of a millisecond to make a network namespace, while an ADD waits, and more to change
// settings of it that need the kernel's network lock. A spare one is made and furnished before. It has no path until
// Ensure takes it, so it ends with this process and needs no clean-up. One that Ensure makes itself is not furnished.
// Threading: thread-safe; one thread of its own makes the spare ones, and `furnish` runs on it. It has the priority of
// all others: it holds locks of the kernel that an ADD waits for, and whoever takes away its CPU takes away the ADD's.
// Errors: as Namespaces; a spare one that cannot be made or furnished is none, and Ensure then makes its own. Another
// try comes later and later (PauseAfter); the log says so once a minute.
//
//   std::unique_ptr<SpareNamespaces> namespaces = NewSpareNamespaces(NewKernelNamespaces(), podnet::FurnishDpuNetns);
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "node-agent/attach/namespaces.h"

namespace heterok8s::attach {

class SpareNamespaces : public Namespaces {
 public:
  struct Counters {
    size_t ready = 0;       // now
    uint64_t failures = 0;  // to make one, ever
  };
  virtual Counters counters() const = 0;

  // Before the next try, when so many have failed one after the other (1 or more).
  static std::chrono::milliseconds PauseAfter(int failures);
};

using Furnish = std::function<absl::Status(const sys::NetnsRef& ns)>;
std::unique_ptr<SpareNamespaces> NewSpareNamespaces(std::unique_ptr<Namespaces> kernel, Furnish furnish);

}  // namespace heterok8s::attach
