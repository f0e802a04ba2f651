#include "node-agent/cri/volume_store.h"

#include <absl/cleanup/cleanup.h>
#include <fmt/format.h>
#include <openssl/sha.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "common/sys/file.h"

namespace heterok8s::cri {
namespace {

namespace fs = std::filesystem;

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

}  // namespace

absl::StatusOr<VolumeStore> VolumeStore::Open(const std::string& root) {
  HK_ASSIGN_OR_RETURN(ConfinedRoot confined, ConfinedRoot::Open(root));
  // Part of each copy's name: nothing here is synced, so a copy from before a power cut may be broken and is not
  // reused.
  HK_ASSIGN_OR_RETURN(std::string boot_id, sys::ReadFile("/proc/sys/kernel/random/boot_id"));
  return VolumeStore(std::move(confined), std::move(boot_id));
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

absl::StatusOr<std::string> VolumeStore::Put(const v1::PutVolumeRequest& request) {
  HK_RETURN_IF_ERROR(CheckName(request.pod_uid()));
  HK_RETURN_IF_ERROR(CheckName(request.volume()));
  std::string folder = request.pod_uid() + "/" + request.volume();
  std::string final_name = folder + "/" + ContentName(request.SerializeAsString() + boot_id_);
  if (root_.OpenFile(final_name, O_PATH).ok()) return root_.path() + "/" + final_name;

  HK_RETURN_IF_ERROR(root_.MakeFolders(folder, 0755));
  std::string temporary = fmt::format("{}/.new-{}-{}", folder, getpid(), counter_.fetch_add(1));
  HK_RETURN_IF_ERROR(root_.Remove(temporary));
  auto undo = absl::MakeCleanup([&] { root_.Remove(temporary).IgnoreError(); });
  bool is_file = request.entries_size() == 1 && request.entries(0).path().empty() &&
                 request.entries(0).kind() == v1::VolumeEntry::FILE;
  if (!is_file) HK_RETURN_IF_ERROR(root_.MakeFolders(temporary, 0755));
  for (const v1::VolumeEntry& entry : request.entries()) HK_RETURN_IF_ERROR(Write(entry, temporary));
  if (rename((root_.path() + "/" + temporary).c_str(), (root_.path() + "/" + final_name).c_str()) != 0 &&
      errno != ENOTEMPTY && errno != EEXIST) {  // another call put the same content first
    return ErrnoToStatus(errno, fmt::format("name '{}'", final_name));
  }
  return root_.path() + "/" + final_name;
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
  return root_.path() + "/" + path;
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
  if (static_cast<uint64_t>(info.st_size) > request.max_bytes() || request.max_bytes() > (1u << 20)) {
    return absl::ResourceExhaustedError(fmt::format("'{}' has {} bytes", request.path(), info.st_size));
  }
  std::string data(static_cast<size_t>(info.st_size), '\0');
  ssize_t got = pread(fd.get(), data.data(), data.size(), 0);
  if (got < 0) return ErrnoToStatus(errno, fmt::format("read '{}'", request.path()));
  data.resize(static_cast<size_t>(got));
  return data;
}

absl::Status VolumeStore::RemovePod(const std::string& pod_uid) {
  HK_RETURN_IF_ERROR(CheckName(pod_uid));
  return root_.Remove(pod_uid);
}

}  // namespace heterok8s::cri
