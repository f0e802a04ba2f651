#include "node-agent/cri/lost_namespaces.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>

#include "common/netlink/libnl_netlink.h"
#include "common/sys/netns.h"
#include "common/sys/unique_fd.h"

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

struct Found {
  ino_t inode;
  bool is_file;
};

// What is at `path` when nothing was ever done with it, else nothing.
absl::StatusOr<std::optional<Found>> LooksLost(const std::string& path) {
  absl::StatusOr<sys::NetnsRef> ns = sys::NetnsRef::Open(path);
  if (ns.ok()) {
    HK_ASSIGN_OR_RETURN(bool untouched, Untouched(*ns));
    return untouched ? std::optional<Found>({ns->inode(), false}) : std::nullopt;
  }
  if (!absl::IsNotFound(ns.status())) return ns.status();
  struct stat file = {};
  if (lstat(path.c_str(), &file) != 0 || !S_ISREG(file.st_mode) || file.st_size != 0) return std::nullopt;
  return Found{file.st_ino, true};
}

absl::StatusOr<std::vector<std::string>> Processes() {
  HK_ASSIGN_OR_RETURN(std::vector<std::string> names, NamesIn("/proc"));
  std::erase_if(names, [](const std::string& name) { return name.empty() || name[0] < '0' || name[0] > '9'; });
  return names;
}

// Network namespaces of all threads that we may look at. Should another be in one that goes, it only loses its name.
absl::StatusOr<std::set<ino_t>> OfThreads() {
  std::set<ino_t> found;
  HK_ASSIGN_OR_RETURN(std::vector<std::string> processes, Processes());
  for (const std::string& process : processes) {
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

// Adds the names of the files on which `process` sees something mounted.
absl::Status AddMounted(const std::string& process, std::set<std::string>& names) {
  std::ifstream mounts(fmt::format("/proc/{}/mountinfo", process));
  std::string line, field;
  size_t lines = 0;
  for (; std::getline(mounts, line); ++lines) {
    // "36 35 98:0 /mnt1 /mnt/parent …", proc(5): the fifth is the mount point.
    std::istringstream fields(line);
    for (int i = 0; i < 5; ++i) fields >> field;
    names.insert(fs::path(field).filename().string());
  }
  if (lines == 0) return absl::UnavailableError(fmt::format("the mounts of process {} cannot be read", process));
  return absl::OkStatus();
}

// The same of all processes of our /proc, one for each mount namespace, which `runtime` must be among.
absl::StatusOr<std::set<std::string>> OfMounts(pid_t runtime) {
  std::set<std::string> names;
  HK_RETURN_IF_ERROR(AddMounted(std::to_string(runtime), names));
  HK_ASSIGN_OR_RETURN(std::vector<std::string> processes, Processes());
  std::set<ino_t> looked_at;
  for (const std::string& process : processes) {
    struct stat ns = {};
    if (stat(fmt::format("/proc/{}/ns/mnt", process).c_str(), &ns) != 0 || looked_at.contains(ns.st_ino)) continue;
    if (AddMounted(process, names).ok()) looked_at.insert(ns.st_ino);  // else it has ended meanwhile
  }
  return names;
}

// Whether somebody may have something mounted on the file `path`.
absl::StatusOr<bool> IsMounted(const std::string& path, const std::function<absl::StatusOr<pid_t>()>& runtime) {
  HK_ASSIGN_OR_RETURN(pid_t process, runtime());
  HK_ASSIGN_OR_RETURN(std::set<std::string> mounted, OfMounts(process));
  return mounted.contains(fs::path(path).filename().string());
}

}  // namespace

absl::StatusOr<pid_t> ListenerOf(const std::string& socket_path) {
  sockaddr_un address = {.sun_family = AF_UNIX};
  if (socket_path.size() >= sizeof address.sun_path) return absl::InvalidArgumentError("the socket's path is too long");
  socket_path.copy(address.sun_path, socket_path.size());
  const sys::UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  ucred peer = {};
  socklen_t length = sizeof peer;
  if (!fd.valid() || connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
    return absl::UnavailableError(fmt::format("who listens at '{}': {}", socket_path, strerror(errno)));
  }
  // unix(7): that of the process that called listen(), and 0 where it is in a PID namespace that is none of ours.
  if (peer.pid == 0) return absl::NotFoundError(fmt::format("the process at '{}' is not in our /proc", socket_path));
  return peer.pid;
}

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
    absl::StatusOr<std::optional<Found>> found = LooksLost(path);
    if (!found.ok()) failures[path] = Annotate(found.status(), "look at " + path);
    if (!found.ok() || !*found) continue;
    const auto [inode, is_file] = **found;
    auto before = seen_.find(path);
    const bool same = before != seen_.end() && before->second.inode == inode && before->second.is_file == is_file;
    seen[path] = same ? before->second : Seen{.inode = inode, .is_file = is_file, .since = now};
  }
  seen_ = std::move(seen);
  std::vector<std::string> removed;
  for (const auto& [path, what] : seen_) {
    if (now - what.since < options_.after) continue;
    HK_ASSIGN_OR_RETURN(std::set<ino_t> used, OfThreads());
    if (used.contains(what.inode)) continue;
    if (what.is_file) {
      absl::StatusOr<bool> mounted = IsMounted(path, options_.runtime);
      if (!mounted.ok()) failures[path] = Annotate(mounted.status(), "whether anything is mounted at " + path);
      if (!mounted.ok() || *mounted) continue;
    }
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
