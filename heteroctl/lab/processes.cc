#include "heteroctl/lab/processes.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>
#include <sstream>
#include <thread>

#include "common/sys/file.h"
#include "common/sys/netns.h"
#include "heteroctl/lab/cgroups.h"

namespace heterok8s::lab {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

int OpenPidfd(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }
int SignalPidfd(int pidfd, int signal) {
  return static_cast<int>(syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0));
}

std::vector<pid_t> AllPids() {
  std::vector<pid_t> pids;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") == std::string::npos) pids.push_back(std::stoi(name));
  }
  return pids;
}

uint64_t NamespaceInode(pid_t pid, const char* kind) {
  struct stat st {};
  return stat(fmt::format("/proc/{}/ns/{}", pid, kind).c_str(), &st) == 0 ? st.st_ino : 0;
}

// The process's number in each PID namespace it is in, from ours inwards.
std::vector<pid_t> NestedPids(pid_t pid) {
  absl::StatusOr<std::string> status = sys::ReadFile(fmt::format("/proc/{}/status", pid));
  if (!status.ok()) return {};
  const size_t at = status->find("\nNSpid:");
  if (at == std::string::npos) return {};
  std::istringstream words(status->substr(at + 7, status->find('\n', at + 1) - at - 7));
  std::vector<pid_t> pids;
  for (pid_t number; words >> number;) pids.push_back(number);
  return pids;
}

}  // namespace

std::string Describe(pid_t pid) {
  absl::StatusOr<std::string> name = sys::ReadFile(fmt::format("/proc/{}/comm", pid));
  return fmt::format("pid {} ({})", pid, name.ok() ? name->substr(0, name->find('\n')) : "gone");
}

absl::StatusOr<PuInit> FindInit(const Layout& layout, Place pu) {
  HK_ASSIGN_OR_RETURN(sys::NetnsRef ns, sys::NetnsRef::Open(layout.Netns(pu)));
  const size_t our_depth = NestedPids(getpid()).size();
  for (pid_t pid : AllPids()) {
    if (NamespaceInode(pid, "net") != ns.inode()) continue;
    // A Pod with hostNetwork has a PID 1 in this network namespace too, but one level further in.
    const std::vector<pid_t> nested = NestedPids(pid);
    if (nested.size() != our_depth + 1 || nested.back() != 1) continue;
    PuInit init{.pid = pid, .pidfd = sys::UniqueFd(OpenPidfd(pid))};
    if (init.pidfd.valid() && NamespaceInode(pid, "net") == ns.inode()) return init;
  }
  return absl::NotFoundError(fmt::format("the {} of lab '{}' does not run", Name(pu), layout.name));
}

pid_t OuterPid(pid_t init, pid_t inner) {
  const uint64_t pid_ns = NamespaceInode(init, "pid");
  for (pid_t pid : AllPids()) {
    const std::vector<pid_t> nested = NestedPids(pid);
    if (!nested.empty() && nested.back() == inner && NamespaceInode(pid, "pid") == pid_ns) return pid;
  }
  return -1;
}

absl::StatusOr<std::vector<pid_t>> FindProcesses(const Layout& layout) {
  HK_ASSIGN_OR_RETURN(std::vector<pid_t> in_cgroups, CgroupProcesses(layout));
  std::set<pid_t> found(in_cgroups.begin(), in_cgroups.end());
  std::set<uint64_t> namespaces;
  for (Place place : kPlaces) {
    absl::StatusOr<sys::NetnsRef> ns = sys::NetnsRef::Open(layout.Netns(place));
    if (ns.ok()) namespaces.insert(ns->inode());
  }
  for (pid_t pid : AllPids()) {
    if (namespaces.count(NamespaceInode(pid, "net")) != 0) found.insert(pid);
  }
  found.erase(getpid());
  return std::vector<pid_t>(found.begin(), found.end());
}

absl::Status EndProcesses(const Layout& layout, std::chrono::milliseconds grace) {
  const auto graceful_end = Clock::now() + grace;
  std::vector<PuInit> inits;
  for (Place place : kPlaces) {
    absl::StatusOr<PuInit> init = FindInit(layout, place);
    if (!init.ok()) continue;
    SignalPidfd(init->pidfd.get(), SIGTERM);
    inits.push_back(*std::move(init));
  }
  for (const PuInit& init : inits) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(graceful_end - Clock::now()).count();
    pollfd ended{init.pidfd.get(), POLLIN, 0};
    if (poll(&ended, 1, static_cast<int>(std::max<int64_t>(left, 0))) <= 0) SignalPidfd(init.pidfd.get(), SIGKILL);
  }
  const auto end = Clock::now() + std::chrono::seconds(2) + grace;
  while (true) {
    HK_ASSIGN_OR_RETURN(std::vector<pid_t> left, FindProcesses(layout));
    if (left.empty()) return absl::OkStatus();
    if (Clock::now() > end) {
      std::vector<std::string> names;
      for (pid_t pid : left) names.push_back(Describe(pid));
      return absl::DeadlineExceededError(fmt::format("processes that do not end: {}", fmt::join(names, ", ")));
    }
    for (pid_t pid : left) kill(pid, SIGKILL);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

}  // namespace heterok8s::lab
