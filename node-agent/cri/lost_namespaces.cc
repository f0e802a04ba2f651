#include "node-agent/cri/lost_namespaces.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <set>

#include "common/netlink/libnl_netlink.h"
#include "common/sys/netns.h"

namespace heterok8s::cri {
namespace {

namespace fs = std::filesystem;

// "cni-" and a UUID, as containerd's pkg/netns and the reference plugins name theirs.
bool NamedByRuntime(const std::string& name) {
  constexpr std::string_view kForm = "cni-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
  return std::equal(name.begin(), name.end(), kForm.begin(), kForm.end(), [](char is, char form) {
    return form == 'x' ? (is >= '0' && is <= '9') || (is >= 'a' && is <= 'f') : is == form;
  });
}

absl::StatusOr<std::vector<std::string>> NamesIn(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator entries(folder, error);
  if (error == std::errc::no_such_file_or_directory) return names;
  for (; !error && entries != fs::directory_iterator(); entries.increment(error)) {
    names.push_back(entries->path().filename().string());
  }
  if (error) return ErrnoToStatus(error.value(), fmt::format("list {}", folder.string()));
  return names;
}

absl::StatusOr<bool> Untouched(const sys::NetnsRef& ns) {
  HK_ASSIGN_OR_RETURN(auto netlink, netlink::OpenNetlinkIn(ns));
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Link> links, netlink->Links());
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Address> addresses, netlink->Addresses(0));
  return addresses.empty() &&
         std::none_of(links.begin(), links.end(), [](const netlink::Link& link) { return link.up; });
}

// The inode at `path` when nothing was ever done with what is there, else nothing.
absl::StatusOr<std::optional<ino_t>> LooksLost(const std::string& path) {
  absl::StatusOr<sys::NetnsRef> ns = sys::NetnsRef::Open(path);
  if (ns.ok()) {
    HK_ASSIGN_OR_RETURN(bool untouched, Untouched(*ns));
    return untouched ? std::optional<ino_t>(ns->inode()) : std::nullopt;
  }
  if (!absl::IsNotFound(ns.status())) return ns.status();
  struct stat file = {};
  if (lstat(path.c_str(), &file) != 0 || !S_ISREG(file.st_mode) || file.st_size != 0) return std::nullopt;
  return file.st_ino;
}

// Network namespaces of all threads that we may look at. Should another be in one that goes, it only loses its name.
absl::StatusOr<std::set<ino_t>> OfThreads() {
  std::set<ino_t> found;
  HK_ASSIGN_OR_RETURN(std::vector<std::string> processes, NamesIn("/proc"));
  for (const std::string& process : processes) {
    if (process.empty() || process[0] < '0' || process[0] > '9') continue;
    const std::string folder = fmt::format("/proc/{}/task", process);
    absl::StatusOr<std::vector<std::string>> threads = NamesIn(folder);
    if (!threads.ok()) continue;  // it has ended meanwhile
    for (const std::string& thread : *threads) {
      const std::string path = fmt::format("{}/{}/ns/net", folder, thread);
      struct stat ns = {};
      if (stat(path.c_str(), &ns) == 0) found.insert(ns.st_ino);
    }
  }
  return found;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> LostNamespaces::Round(Clock::time_point now) {
  HK_ASSIGN_OR_RETURN(std::vector<std::string> names, NamesIn(options_.folder));
  HK_ASSIGN_OR_RETURN(std::vector<std::string> attached, options_.attached());
  std::set<std::string> known;
  for (const std::string& path : attached) known.insert(fs::path(path).filename().string());
  std::map<std::string, Seen> seen;
  std::map<std::string, absl::Status> failures;
  for (const std::string& name : names) {
    if (!NamedByRuntime(name) || known.contains(name)) continue;
    const std::string path = fmt::format("{}/{}", options_.folder, name);
    absl::StatusOr<std::optional<ino_t>> inode = LooksLost(path);
    if (!inode.ok()) failures[path] = Annotate(inode.status(), "look at " + path);
    if (!inode.ok() || !*inode) continue;
    auto before = seen_.find(path);
    const bool same = before != seen_.end() && before->second.inode == **inode;
    seen[path] = same ? before->second : Seen{.inode = **inode, .since = now};
  }
  seen_ = std::move(seen);
  std::vector<std::string> removed;
  for (const auto& [path, what] : seen_) {
    if (now - what.since < options_.after) continue;
    HK_ASSIGN_OR_RETURN(std::set<ino_t> used, OfThreads());
    if (used.contains(what.inode)) continue;
    if (absl::Status gone = sys::DeleteNetns(path); !gone.ok()) {
      failures[path] = std::move(gone);
      continue;
    }
    spdlog::warn("namespace {} was made by the runtime and forgotten: removed", path);
    removed.push_back(path);
  }
  for (const auto& [path, why] : failures) {
    if (failures_[path] != why)
      spdlog::warn("lost namespaces: {}; it stays, and is looked at again later", ToString(why));
  }
  failures_ = std::move(failures);
  return removed;
}

void LostNamespaces::Start() {
  if (options_.after.count() == 0) return;
  thread_ = std::thread([this] {
    std::string last_failure;
    std::unique_lock lock(mutex_);
    while (!stop_) {
      lock.unlock();
      absl::Status round = Round(Clock::now()).status();
      if (!round.ok() && Message(round) != last_failure)
        spdlog::warn("lost namespaces: {}; looked at again later", ToString(round));
      last_failure = round.ok() ? "" : Message(round);
      lock.lock();
      changed_.wait_for(lock, std::min(options_.interval, options_.after), [this] { return stop_; });
    }
  });
}

void LostNamespaces::Stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

}  // namespace heterok8s::cri
