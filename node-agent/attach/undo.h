// Small things that undoing needs on both PUs.
//
// Threading: values.
//
//   FirstError failed;
//   failed.Add(podnet.RemoveUplink(…));   // goes on whatever happens
//   failed.Add(ports.RemovePod(…));
//   return failed.status();
#pragma once

#include "common/cni/types.h"
#include "common/status/status.h"
#include "node-agent/ledger/ledger.h"

namespace heterok8s::attach {

class FirstError {
 public:
  void Add(const absl::Status& status) {
    if (first_.ok()) first_ = status;
  }
  absl::Status status() const { return first_; }

 private:
  absl::Status first_;
};

// Removing something from a namespace that is gone is done.
inline absl::Status OkIfGone(const absl::Status& status) {
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

// A GC without a list would read as "nothing is valid" and take every Pod's network away.
absl::Status CheckGc(const cni::Request& request);
// Of this GC's network and not in its list.
bool IsGarbage(const cni::Request& request, const ledger::Attachment& row);

}  // namespace heterok8s::attach
