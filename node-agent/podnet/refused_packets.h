// How many packets the tables of this PU have refused since this heterod was ready, by reason.
//
// Purpose: a counter that never falls. The counters themselves are the kernel's, one set in each split Pod's namespace
// and one in the root table; those of a Pod go with it, so they are read once more before and kept. The tables outlive
// a heterod, its counter does not: it begins at 0 again, as counters of a process do.
// Threading: thread-safe. Ownership: borrows the root table; remembers paths, holds no namespace open. Errors: a Pod
// that cannot be read counts with what it had when it was read last.
//
//   RefusedPackets refused("demo", root_table);
//   refused.Watch(spec.netns_path);      // its table is made
//   refused.Retire(spec.netns_path);     // before the table goes
//   refused.CountFromHere();             // once, when the tables of an earlier heterod are watched
//   refused.Read();
//   refused.Sum()["spoofed"];
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "node-agent/podnet/root_table.h"

namespace heterok8s::podnet {

using RefusedByReason = std::map<std::string, uint64_t>;

class RefusedPackets {
 public:
  RefusedPackets(std::string instance, const RootTable& root) : instance_(std::move(instance)), root_table_(root) {}

  void Watch(const std::string& netns_path);
  void Retire(const std::string& netns_path);  // nothing for one that is not watched
  void Read();                                 // the calling thread is in the root namespace
  void CountFromHere();
  RefusedByReason Sum() const;  // as read last

 private:
  struct Pod {
    uint64_t watch = 0;    // its number: one that is watched anew while it is read has a new table
    RefusedByReason last;  // as read
  };

  RefusedByReason SumLocked() const;
  void ReadRootLocked(const RefusedByReason& now, uint64_t generation);

  const std::string instance_;
  const RootTable& root_table_;
  mutable std::mutex mutex_;  // guards what follows
  uint64_t watches_ = 0;
  RefusedByReason before_;           // what is not ours to tell
  RefusedByReason gone_;             // of tables that are not there any more
  RefusedByReason root_;             // as last read
  uint64_t root_generation_ = 0;     // of the table that root_ is of
  std::map<std::string, Pod> pods_;  // by namespace
};

}  // namespace heterok8s::podnet
