// What heterod does to this machine before it builds anything: privileges, folders, identity of this start.
//
// Ownership: LockRunDir's lock is held as long as its descriptor. Threading: DropCapabilities before any other thread
// exists (capabilities belong to threads); the rest anywhere. Errors: Status that names the operation.
//
//   HK_RETURN_IF_ERROR(DropCapabilities());
//   HK_ASSIGN_OR_RETURN(sys::UniqueFd lock, LockRunDir(config.run_dir));
#pragma once

#include <cstdint>
#include <string>

#include "common/status/status.h"
#include "common/sys/unique_fd.h"
#include "node-agent/ledger/ledger.h"

namespace heterok8s::agent {

// Keeps what the work needs and gives up the rest for good, also for programs that are executed (IPAM plugins).
absl::Status DropCapabilities();

// Makes the folder and its parents, 0700.
absl::Status MakeFolder(const std::string& path);

// Held while this process lives: kAlreadyExists when another heterod uses the folder.
absl::StatusOr<sys::UniqueFd> LockRunDir(const std::string& run_dir);

// Of this kernel: /proc/sys/kernel/random/boot_id.
absl::StatusOr<std::string> BootId();

// Higher than at every start before, even when the ledger was lost meanwhile.
absl::StatusOr<uint64_t> NextEpoch(ledger::Ledger& ledger);

}  // namespace heterok8s::agent
