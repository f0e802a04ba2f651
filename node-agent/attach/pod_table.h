// Inspect over the ledger and what an engine keeps in memory beside it.
//
// Threading: thread-safe. Ownership: borrows the journal.
// Errors: as Inspect.
//
//   PodTable table(identity, journal);
//   table.SetLink(spec);                 // before ports::Ports::AddPod: its events ask for it
#pragma once

#include <map>
#include <mutex>
#include <string>

#include "node-agent/attach/details.h"
#include "node-agent/attach/inspect.h"
#include "node-agent/attach/journal.h"

namespace heterok8s::attach {

class PodTable : public Inspect {
 public:
  PodTable(Identity identity, Journal& journal) : identity_(std::move(identity)), journal_(journal) {}

  absl::StatusOr<std::vector<PodView>> ListPods() override;
  absl::StatusOr<PodView> FindPod(const std::string& pod) override;
  absl::StatusOr<Summary> Summarise() override;
  absl::StatusOr<podnet::LinkSpec> LinkOf(const std::string& pod_key) override;

  void SetLink(const podnet::LinkSpec& spec);
  void DropLink(const std::string& pod_key);
  void SetPeerGeneration(const std::string& pod_key, uint64_t generation);  // 0: the other PU has none
  void SetReady(std::string not_ready_reason);                              // empty: ready
  absl::Status Ready() const;

 private:
  PodView ViewOf(const Attachment& row);

  const Identity identity_;
  Journal& journal_;
  mutable std::mutex mutex_;
  std::map<std::string, podnet::LinkSpec> links_;  // these three are guarded by mutex_
  std::map<std::string, uint64_t> peer_generations_;
  std::string not_ready_reason_ = "starting: the ledger and the kernel are not reconciled yet";
};

}  // namespace heterok8s::attach
