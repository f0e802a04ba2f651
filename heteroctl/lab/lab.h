// One heterogeneous computer on this machine: made, listed, removed.
//
//   client ── DPU PU (containerd, heterod) ── host PU (containerd, heterod, heterocri)
//
// Everything but the shared kernel is real: each PU has network, mount, UTS, IPC, PID and cgroup namespaces of its own,
// an init that keeps its daemons running, and a containerd of its own.
//
// Threading: any thread; two processes that work on one lab wait for each other (a lock file). Ownership: a lab lives
// until Down; nothing of it is held by the process that made it.
// Errors: Up removes what it made before it returns a failure (unless told to keep it). Down goes on after a failure
// and returns the first one; kFailedPrecondition lists what it could not remove.
//
//   HK_RETURN_IF_ERROR(Up({.layout = {"demo"}, .binaries = FindBinaries("")}, progress));
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "common/status/status.h"
#include "heteroctl/lab/configs.h"
#include "heteroctl/lab/layout.h"
#include "heteroctl/lab/ready.h"

namespace heterok8s::lab {

// The programs a lab runs, as paths on this machine.
struct Binaries {
  std::string heteroctl, heterod, heterocri, heterok8s_cni;
};
// In `folder`, or beside this program: all in one folder, or as Bazel lays them out. kNotFound names what is missing.
absl::StatusOr<Binaries> FindBinaries(const std::string& folder, bool agents);

struct UpOptions {
  Layout layout;
  ConfigOptions config;
  std::string binary_folder;
  std::string image_folder;  // empty: see images.h
  bool images = true;
  bool keep_on_failure = false;
  std::chrono::milliseconds deadline{30000};
};
using Report = std::function<void(const std::string& what_is_going_on)>;

struct UpResult {
  std::vector<PartState> parts;
  size_t images = 0;
  std::chrono::milliseconds took{0};
};
absl::StatusOr<UpResult> Up(const UpOptions& options, const Report& report);

// OK when there is no such lab. Also removes what an interrupted Up or Down left.
absl::Status Down(const Layout& layout);

// Down for a caller that holds the lab's lock.
absl::Status Remove(const Layout& layout);
// The folders of all labs go with the last lab.
void RemoveEmptyRoots();

// What is left of a lab on this machine: processes, mounts, cgroups, folders. Empty after Down.
absl::StatusOr<std::vector<std::string>> Leftovers(const Layout& layout);

// Names of all labs that left anything in the run or state root.
std::vector<std::string> ListLabs();

}  // namespace heterok8s::lab
