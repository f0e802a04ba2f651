// How many packets the tables of this PU have refused since this heterod started, by reason.
//
// Purpose: a counter that never falls. The counters themselves are the kernel's, one set in each split Pod's namespace
// and one in the root table; those of a Pod go with it, so they are read once more before and kept.
// Threading: thread-safe. Ownership: remembers paths, holds no namespace open. Errors: a Pod that cannot be read counts
// with what it had when it was read last.
//
//   RefusedPackets refused("demo");
//   refused.Watch(spec.netns_path);      // its table is made
//   refused.Retire(spec.netns_path);     // before the table goes
//   refused.Read()["spoofed"];
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace heterok8s::podnet {

using RefusedByReason = std::map<std::string, uint64_t>;

class RefusedPackets {
 public:
  explicit RefusedPackets(std::string instance) : instance_(std::move(instance)) {}

  void Watch(const std::string& netns_path);
  void Retire(const std::string& netns_path);  // nothing for one that is not watched
  // The calling thread is in the root namespace.
  RefusedByReason Read();

 private:
  struct Pod {
    uint64_t watched = 0;  // how often: one that is watched again while it is read has a new table
    RefusedByReason last;  // as read
  };

  const std::string instance_;
  std::mutex mutex_;
  RefusedByReason gone_;             // of tables that are not there any more
  RefusedByReason root_;             // as last read
  std::map<std::string, Pod> pods_;  // by namespace
};

}  // namespace heterok8s::podnet
