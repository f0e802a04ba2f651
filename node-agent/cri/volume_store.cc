#include "node-agent/cri/volume_store.h"

#include <absl/cleanup/cleanup.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <openssl/sha.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <set>
#include <vector>

#include "common/sys/file.h"

namespace heterok8s::cri {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMemory = ".memory";  // no Pod's UID begins with a dot
// Of one Pod. A volume has at most 4 MiB, twice while it changes; each file takes a page, which may have 64 KiB.
constexpr uint64_t kMemoryBytes = 32u << 20;
constexpr int kMemoryFiles = 16384;

std::string ContentName(const std::string& bytes) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest);
  std::string name;
  for (int i = 0; i < 12; ++i) name += fmt::format("{:02x}", digest[i]);
  return name;
}

absl::Status CheckLink(const v1::VolumeEntry& entry) {
  fs::path target = fs::path(entry.data());
  fs::path reached = (fs::path(entry.path()).parent_path() / target).lexically_normal();
  if (entry.data().empty() || target.is_absolute() || *reached.begin() == "..") {
    return absl::InvalidArgumentError(fmt::format("link '{}' -> '{}' leaves the volume", entry.path(), entry.data()));
  }
  return absl::OkStatus();
}

// kubelet's order (its AtomicWriter): a version's folder "..2026_…" is there before the link "..data" leads to it; a
// file's own link "name -> ..data/name" comes after that; and what no new link leads to goes last.
int Turn(const fs::directory_entry& entry) {
  std::string name = entry.path().filename();
  if (name == "..data") return 1;
  return name.rfind("..", 0) == 0 ? 0 : 2;
}

absl::StatusOr<std::vector<fs::directory_entry>> Entries(const std::string& folder) {
  std::vector<fs::directory_entry> entries;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) entries.push_back(*at);
  if (error) return ErrnoToStatus(error.value(), fmt::format("read folder '{}'", folder));
  return entries;
}

// Each entry of `fresh` takes its place in `live` in one step; what it replaces is left in `fresh`.
absl::Status ReplaceContent(const std::string& fresh, const std::string& live) {
  HK_ASSIGN_OR_RETURN(std::vector<fs::directory_entry> entries, Entries(fresh));
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return Turn(a) < Turn(b); });
  std::set<std::string> names;
  for (const fs::directory_entry& entry : entries) {
    std::string name = entry.path().filename();
    names.insert(name);
    std::string to = live + "/" + name;
    if (renameat2(AT_FDCWD, entry.path().c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) != 0 &&
        (errno != ENOENT || rename(entry.path().c_str(), to.c_str()) != 0)) {
      return ErrnoToStatus(errno, fmt::format("put '{}' in its place", to));
    }
  }
  struct stat info = {};
  if (stat(fresh.c_str(), &info) != 0 || chown(live.c_str(), info.st_uid, info.st_gid) != 0 ||
      chmod(live.c_str(), info.st_mode & 07777) != 0) {
    return ErrnoToStatus(errno, fmt::format("owner and mode of '{}'", live));
  }
  HK_ASSIGN_OR_RETURN(std::vector<fs::directory_entry> left, Entries(live));
  std::stable_sort(left.begin(), left.end(), [](const auto& a, const auto& b) { return Turn(a) > Turn(b); });
  for (const fs::directory_entry& entry : left) {
    if (names.contains(entry.path().filename())) continue;
    std::error_code error;
    fs::remove_all(entry.path(), error);
    if (error) return ErrnoToStatus(error.value(), fmt::format("remove '{}'", entry.path().string()));
  }
  return absl::OkStatus();
}

// OK for what is no mount (EINVAL) or not there. EPERM: without the right to mount nothing was.
absl::Status Unmount(const std::string& path) {
  if (umount2(path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0 || errno == EINVAL || errno == ENOENT ||
      errno == EPERM || errno == ENOTDIR)
    return absl::OkStatus();
  return ErrnoToStatus(errno, fmt::format("unmount '{}'", path));
}

// What a copy takes of a tmpfs: each file whole pages, and so a link that is too long for its inode (SHORT_SYMLINK_LEN
// in the kernel's mm/shmem.c, with the 0 at its end).
uint64_t PagesOf(const v1::PutVolumeRequest& request) {
  const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  uint64_t bytes = 0;
  for (const v1::VolumeEntry& entry : request.entries()) {
    if (entry.kind() == v1::VolumeEntry::FILE || entry.data().size() >= 128)
      bytes += (entry.data().size() + page - 1) / page * page;
  }
  return bytes;
}

uint64_t EighthOfThisMachine() {
  struct sysinfo machine = {};
  sysinfo(&machine);  // fails for a bad address only
  return static_cast<uint64_t>(machine.totalram) * machine.mem_unit / 8;
}

}  // namespace

absl::StatusOr<VolumeStore> VolumeStore::Open(const std::string& root, std::optional<uint64_t> memory_bytes) {
  HK_ASSIGN_OR_RETURN(ConfinedRoot confined, ConfinedRoot::Open(root));
  // Part of each copy's name: nothing here is synced, so a copy from before a power cut may be broken and is not
  // reused.
  HK_ASSIGN_OR_RETURN(std::string boot_id, sys::ReadFile("/proc/sys/kernel/random/boot_id"));
  return VolumeStore(std::move(confined), std::move(boot_id), memory_bytes.value_or(EighthOfThisMachine()));
}

absl::Status VolumeStore::Write(const v1::VolumeEntry& entry, const std::string& base) {
  if (!entry.path().empty()) HK_RETURN_IF_ERROR(CheckRelativePath(entry.path()));
  std::string path = entry.path().empty() ? base : base + "/" + entry.path();
  if (entry.kind() == v1::VolumeEntry::LINK) {
    HK_RETURN_IF_ERROR(CheckLink(entry));
    std::error_code error;
    fs::create_symlink(entry.data(), root_.path() + "/" + path, error);
    return error ? ErrnoToStatus(error.value(), fmt::format("link '{}'", path)) : absl::OkStatus();
  }
  sys::UniqueFd fd;
  if (entry.kind() == v1::VolumeEntry::FOLDER) {
    HK_RETURN_IF_ERROR(root_.MakeFolders(path, 0700));
    HK_ASSIGN_OR_RETURN(fd, root_.OpenFile(path, O_RDONLY | O_DIRECTORY));
  } else {
    HK_ASSIGN_OR_RETURN(fd, root_.OpenFile(path, O_WRONLY | O_CREAT | O_EXCL, 0600));
    std::string_view left = entry.data();
    while (!left.empty()) {
      ssize_t written = write(fd.get(), left.data(), left.size());
      if (written < 0) return ErrnoToStatus(errno, fmt::format("write '{}'", path));
      left.remove_prefix(static_cast<size_t>(written));
    }
  }
  if (fchown(fd.get(), entry.uid(), entry.gid()) != 0 || fchmod(fd.get(), entry.mode() & 07777) != 0) {
    return ErrnoToStatus(errno, fmt::format("owner and mode of '{}'", path));
  }
  return absl::OkStatus();
}

// One tmpfs for each Pod, so that one that fills its own keeps no other's tokens from being renewed; below the root, so
// that the runtime sees it at the same path. It stays when we end, as the containers that use it do; a reboot takes
// both.
absl::Status VolumeStore::MountMemory(const std::string& pod_uid) {
  const std::string relative = fmt::format("{}/{}", kMemory, pod_uid);
  HK_RETURN_IF_ERROR(root_.MakeFolders(relative, 0755));
  const std::string path = root_.path() + "/" + relative;
  struct statfs system = {};
  struct stat inside = {}, around = {};
  if (statfs(path.c_str(), &system) != 0 || stat(path.c_str(), &inside) != 0 ||
      stat((path + "/..").c_str(), &around) != 0)
    return ErrnoToStatus(errno, fmt::format("stat '{}'", path));
  if (system.f_type == TMPFS_MAGIC) {
    // Not covered: what containers mount that an older heterod put into one tmpfs for all Pods.
    HK_ASSIGN_OR_RETURN(const auto entries, Entries(path));
    if (inside.st_dev != around.st_dev || !entries.empty()) return absl::OkStatus();
  }
  const std::string options = fmt::format("mode=0755,size={},nr_inodes={}", kMemoryBytes, kMemoryFiles);
  if (mount("heterok8s-volumes", path.c_str(), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options.c_str()) != 0) {
    return ErrnoToStatus(errno, fmt::format("mount memory for volumes at '{}'", path));
  }
  return absl::OkStatus();
}

absl::Status VolumeStore::CheckMemory(const v1::PutVolumeRequest& request, const std::string& folder) const {
  const uint64_t wanted = PagesOf(request);
  uint64_t bytes = wanted + static_cast<uint64_t>(sysconf(_SC_PAGESIZE));  // and the file with its version
  if (auto live = root_.OpenFile(folder + "/live", O_RDONLY | O_DIRECTORY); request.live() && live.ok()) {
    const std::atomic<bool> never = false;
    const uint64_t there = UseOf(*std::move(live), never).bytes;
    if (wanted <= there) return absl::OkStatus();  // a token keeps its size: renewed whatever the others have
    bytes = wanted - there;
  }
  const std::string memory = root_.path() + "/" + kMemory;
  uint64_t used = 0;
  std::set<dev_t> counted;  // what an older heterod put into one tmpfs for all Pods is there once
  std::error_code none;
  for (fs::directory_iterator at(memory, none), end; !none && at != end; at.increment(none)) {
    struct statfs pod = {};
    struct stat folder = {};
    if (statfs(at->path().c_str(), &pod) == 0 && pod.f_type == TMPFS_MAGIC && stat(at->path().c_str(), &folder) == 0 &&
        counted.insert(folder.st_dev).second)
      used += (pod.f_blocks - pod.f_bfree) * static_cast<uint64_t>(pod.f_bsize);
  }
  if (used + bytes <= memory_bytes_) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      fmt::format("volumes in memory have {} of {} MiB, for {} more", used >> 20, memory_bytes_ >> 20, bytes >> 20));
}

absl::StatusOr<std::string> VolumeStore::WriteAside(const v1::PutVolumeRequest& request, const std::string& folder) {
  HK_RETURN_IF_ERROR(root_.MakeFolders(folder, 0755));
  std::string aside = fmt::format("{}/.new-{}-{}", folder, getpid(), counter_.fetch_add(1));
  HK_RETURN_IF_ERROR(root_.Remove(aside));
  auto undo = absl::MakeCleanup([&] { root_.Remove(aside).IgnoreError(); });
  bool is_file = request.entries_size() == 1 && request.entries(0).path().empty() &&
                 request.entries(0).kind() == v1::VolumeEntry::FILE;
  if (is_file && request.live()) return absl::InvalidArgumentError("a volume that is a file cannot be live");
  if (!is_file) HK_RETURN_IF_ERROR(root_.MakeFolders(aside, 0755));
  for (const v1::VolumeEntry& entry : request.entries()) HK_RETURN_IF_ERROR(Write(entry, aside));
  std::move(undo).Cancel();
  return aside;
}

absl::StatusOr<std::string> VolumeStore::Put(const v1::PutVolumeRequest& request) {
  HK_RETURN_IF_ERROR(CheckName(request.pod_uid()));
  HK_RETURN_IF_ERROR(CheckName(request.volume()));
  std::string folder = request.pod_uid() + "/" + request.volume();
  // To the end: were the Pod removed after its memory is mounted, what is written would be on the disk.
  std::lock_guard lock(request.memory() ? *memory_ : *disk_);
  if (request.memory()) folder = fmt::format("{}/{}", kMemory, folder);
  const std::string final_name = folder + "/" + ContentName(request.SerializeAsString() + boot_id_);
  if (!request.live() && root_.OpenFile(final_name, O_PATH).ok()) return root_.path() + "/" + final_name;
  if (request.memory()) {
    HK_RETURN_IF_ERROR(CheckMemory(request, folder));
    HK_RETURN_IF_ERROR(MountMemory(request.pod_uid()));
  }
  if (request.live()) return PutLive(request, folder);

  HK_ASSIGN_OR_RETURN(std::string aside, WriteAside(request, folder));
  auto undo = absl::MakeCleanup([&] { root_.Remove(aside).IgnoreError(); });
  if (rename((root_.path() + "/" + aside).c_str(), (root_.path() + "/" + final_name).c_str()) != 0 &&
      errno != ENOTEMPTY && errno != EEXIST) {  // another call put the same content first
    return ErrnoToStatus(errno, fmt::format("name '{}'", final_name));
  }
  return root_.path() + "/" + final_name;
}

absl::StatusOr<std::string> VolumeStore::PutLive(const v1::PutVolumeRequest& request, const std::string& folder) {
  const std::string live = root_.path() + "/" + folder + "/live";
  const std::string version_file = root_.path() + "/" + folder + "/version";
  const std::string version = ContentName(request.SerializeAsString() + boot_id_);
  std::error_code error;
  if (auto known = sys::ReadFile(version_file, 64); known.ok() && *known == version && fs::exists(live, error))
    return live;

  HK_ASSIGN_OR_RETURN(std::string aside, WriteAside(request, folder));
  auto undo = absl::MakeCleanup([&] { root_.Remove(aside).IgnoreError(); });
  const std::string fresh = root_.path() + "/" + aside;
  if (!fs::exists(live, error)) {
    if (rename(fresh.c_str(), live.c_str()) != 0) return ErrnoToStatus(errno, fmt::format("name '{}'", live));
  } else {
    HK_RETURN_IF_ERROR(ReplaceContent(fresh, live));
  }
  HK_RETURN_IF_ERROR(sys::WriteFileAtomic(version_file, version, 0600));
  return live;
}

absl::StatusOr<std::string> VolumeStore::Make(const v1::MakeVolumeRequest& request) {
  HK_RETURN_IF_ERROR(CheckName(request.pod_uid()));
  HK_RETURN_IF_ERROR(CheckName(request.volume()));
  std::string path = request.pod_uid() + "/" + request.volume() + "/data";
  if (!root_.OpenFile(path, O_PATH).ok()) {
    v1::VolumeEntry entry;
    entry.set_kind(v1::VolumeEntry::FOLDER);
    entry.set_mode(request.mode());
    entry.set_uid(request.uid());
    entry.set_gid(request.gid());
    HK_RETURN_IF_ERROR(root_.MakeFolders(request.pod_uid() + "/" + request.volume(), 0755));
    HK_RETURN_IF_ERROR(Write(entry, path));
  }
  if (request.memory()) HK_RETURN_IF_ERROR(MountVolume(path, request));
  return root_.path() + "/" + path;
}

// Of its own size, as kubelet makes it: a Pod that fills one harms no other. What is written is charged to its writer.
absl::Status VolumeStore::MountVolume(const std::string& relative, const v1::MakeVolumeRequest& request) {
  const std::string path = root_.path() + "/" + relative;
  std::lock_guard lock(*disk_);
  struct stat inside = {}, around = {};
  if (stat(path.c_str(), &inside) != 0 || stat((path + "/..").c_str(), &around) != 0)
    return ErrnoToStatus(errno, fmt::format("stat '{}'", path));
  if (inside.st_dev != around.st_dev) return absl::OkStatus();  // mounted already
  std::string options = fmt::format("mode=0{:o},uid={},gid={}", request.mode() & 07777, request.uid(), request.gid());
  if (request.memory_bytes() > 0) options += fmt::format(",size={}", request.memory_bytes());
  if (mount("heterok8s-emptydir", path.c_str(), "tmpfs", MS_NODEV, options.c_str()) != 0)
    return ErrnoToStatus(errno, fmt::format("mount memory at '{}'", path));
  return absl::OkStatus();
}

v1::UsedByVolumesReply VolumeStore::Used(std::chrono::milliseconds patience) {
  return walk_->Figures([this](const std::atomic<bool>& stop) { return WalkAll(stop); }, patience);
}

v1::UsedByVolumesReply VolumeStore::WalkAll(const std::atomic<bool>& stop) const {
  v1::UsedByVolumesReply reply;
  struct stat around = {}, inside = {};
  if (stat(root_.path().c_str(), &around) != 0) return reply;
  std::error_code none;
  for (fs::directory_iterator pod(root_.path(), none), end; !stop && !none && pod != end; pod.increment(none)) {
    if (pod->path().filename() == kMemory) continue;
    std::error_code gone;  // a Pod may go meanwhile
    for (fs::directory_iterator at(pod->path(), gone); !gone && at != end; at.increment(gone)) {
      const std::string uid = pod->path().filename(), name = at->path().filename();
      auto folder = root_.OpenFile(fmt::format("{}/{}/data", uid, name), O_RDONLY | O_DIRECTORY);
      if (!folder.ok() || fstat(folder->get(), &inside) != 0 || inside.st_dev != around.st_dev) continue;
      const VolumeUse use = UseOf(*std::move(folder), stop);
      v1::UsedByVolumesReply::Volume* volume = reply.add_volumes();
      volume->set_pod_uid(uid);
      volume->set_volume(name);
      volume->set_bytes(use.bytes);
      volume->set_inodes(use.inodes);
    }
  }
  return reply;
}

absl::StatusOr<std::string> VolumeStore::Get(const v1::GetFileRequest& request) {
  HK_RETURN_IF_ERROR(CheckName(request.pod_uid()));
  std::string prefix = root_.path() + "/" + request.pod_uid() + "/";
  if (request.path().rfind(prefix, 0) != 0) {
    return absl::InvalidArgumentError(fmt::format("'{}' is no volume of Pod {}", request.path(), request.pod_uid()));
  }
  HK_ASSIGN_OR_RETURN(sys::UniqueFd fd,
                      root_.OpenFile(request.path().substr(root_.path().size() + 1), O_RDONLY | O_NONBLOCK));
  struct stat info = {};
  if (fstat(fd.get(), &info) != 0) return ErrnoToStatus(errno, fmt::format("stat '{}'", request.path()));
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(fmt::format("'{}' is no file", request.path()));
  uint64_t size = static_cast<uint64_t>(info.st_size), skip = 0;
  if (request.tail() && size > request.max_bytes()) {
    skip = size - request.max_bytes();
    size = request.max_bytes();
  }
  if (size > request.max_bytes() || request.max_bytes() > (1u << 20)) {
    return absl::ResourceExhaustedError(fmt::format("'{}' has {} bytes", request.path(), info.st_size));
  }
  std::string data(size, '\0');
  ssize_t got = pread(fd.get(), data.data(), data.size(), static_cast<off_t>(skip));
  if (got < 0) return ErrnoToStatus(errno, fmt::format("read '{}'", request.path()));
  data.resize(static_cast<size_t>(got));
  return data;
}

absl::Status VolumeStore::RemovePod(const std::string& pod_uid) {
  HK_RETURN_IF_ERROR(CheckName(pod_uid));
  const std::string memory = fmt::format("{}/{}", kMemory, pod_uid);
  {
    std::lock_guard lock(*memory_);
    HK_RETURN_IF_ERROR(Unmount(root_.path() + "/" + memory));
    HK_RETURN_IF_ERROR(root_.Remove(memory));
  }
  // Those of MountVolume.
  std::error_code none;
  for (fs::directory_iterator at(root_.path() + "/" + pod_uid, none), end; !none && at != end; at.increment(none))
    HK_RETURN_IF_ERROR(Unmount(at->path().string() + "/data"));
  return root_.Remove(pod_uid);
}

}  // namespace heterok8s::cri
