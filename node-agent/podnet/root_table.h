// The root namespace's table with what is in it, and how it comes back when somebody takes it away.
//
// Purpose: `nft flush ruleset`, which is the first line of a distribution's nftables.conf, takes every table: the
// guard that keeps 127.0.0.1 and forged packets out, host ports, masquerading. Mend(), called again and again, looks
// whether the table is there, and makes it again with the host ports of all Pods, as Ensure was told of them last.
// Between the two the Node is without its guard, while route_localnet of devices stays on: so Mend is called
// often. Not seen: single rules or elements that somebody has deleted. Threading: thread-safe. The calling thread is in
// the root namespace. Ownership: remembers specs; the kernel's objects stay. Errors: as hostports.h; Ensure makes a
// missing table before it says kNotFound.
//
//   RootTable table("demo", {.link_range = link_range});
//   HK_RETURN_IF_ERROR(table.Prepare());
//   HK_RETURN_IF_ERROR(table.Ensure(spec));
//   HK_RETURN_IF_ERROR(table.Mend().status());   // each second
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "node-agent/podnet/podnet.h"

namespace heterok8s::podnet {

class RootTable {
 public:
  RootTable(std::string instance, RootGuard guard) : instance_(std::move(instance)), guard_(std::move(guard)) {}

  absl::Status Prepare();
  absl::Status Ensure(const HostPortSpec& spec);
  absl::Status Remove(const std::string& pod_key);
  // True when the table was missing and is there again. Nothing before Prepare. What could not be filled in is tried
  // again by one of the next calls: the first, then one of 2, 4, … 64.
  absl::StatusOr<bool> Mend();
  uint64_t remade() const { return remade_; }
  // Another one after the table was made again, odd while it is being made: what was read between two looks that saw
  // the same even number is of one table.
  uint64_t generation() const { return generation_; }

 private:
  absl::StatusOr<bool> MendLocked();
  void FillLocked();

  const std::string instance_;
  const RootGuard guard_;
  std::mutex mutex_;  // guards what follows, and that a spec and its elements change together
  bool prepared_ = false;
  std::map<std::string, HostPortSpec> specs_;
  std::set<std::string> unfilled_;  // Pods: the table was made anew, and theirs of specs_ is not in it
  int failures_ = 0;                // to fill them, in a row
  int rest_ = 0;                    // calls that leave them alone
  std::atomic<uint64_t> remade_{0}, generation_{0};
};

}  // namespace heterok8s::podnet
