// Inspect over the ledger and what an engine keeps in memory beside it.
//
// Threading: thread-safe. Ownership: borrows the journal.
// Errors: as Inspect.
//
//   PodTable table(identity, journal);
//   table.SetLink(spec);                 // before ports::Ports::AddPod: its events ask for it
//   table.SetJoined(pod_key, generation);
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "node-agent/attach/details.h"
#include "node-agent/attach/inspect.h"
#include "node-agent/attach/journal.h"
#include "node-agent/attach/peer.h"

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
  // Until DropLink: all of the half here but its link is made.
  void SetPrepared(const std::string& pod_key, uint64_t generation);
  bool IsPrepared(const std::string& pod_key, uint64_t generation) const;
  // Until DropLink: the half here is whole.
  void SetJoined(const std::string& pod_key, uint64_t generation);
  bool IsJoined(const std::string& pod_key, uint64_t generation) const;
  std::vector<PodGeneration> Joined() const;
  void SetPeerHalves(const std::vector<PodGeneration>& halves);  // all that are whole on the other PU
  void SetReady(std::string not_ready_reason);                   // empty: ready
  absl::Status Ready() const;

 private:
  struct Half {
    uint64_t generation = 0;
    uint64_t reports = 0;  // of the other PU that were here when it was joined: only later ones can know of it
  };

  PodView ViewOf(const Attachment& row);

  const Identity identity_;
  Journal& journal_;
  mutable std::mutex mutex_;
  std::map<std::string, podnet::LinkSpec> links_;  // all below are guarded by mutex_
  std::map<std::string, uint64_t> prepared_;
  std::map<std::string, Half> joined_;
  std::map<std::string, uint64_t> peer_halves_;
  uint64_t peer_reports_ = 0;
  std::string not_ready_reason_ = "starting: the ledger and the kernel are not reconciled yet";
};

}  // namespace heterok8s::attach
