#include "heteroctl/lab/images.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <sstream>

#include "common/sys/file.h"
#include "common/sys/process.h"
#include "heteroctl/output.h"

namespace heterok8s::lab {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds kImportDeadline{60};
constexpr const char* kSeedList = "archives";  // lines "file bytes mtime", as `build` wrote them

std::string DefaultFolder() {
  if (const char* folder = getenv("HETEROK8S_IMAGES"); folder != nullptr && *folder != '\0') return folder;
  std::error_code error;
  for (fs::path at = fs::current_path(error); !at.empty(); at = at.parent_path()) {
    if (fs::is_directory(at / ".build/images", error)) return at / ".build/images";
    if (at == at.root_path()) break;
  }
  return ".build/images";
}

// The archive as the seed's list has it.
std::string Fingerprint(const std::string& archive) {
  struct stat st {};
  if (stat(archive.c_str(), &st) != 0) return "";
  return fmt::format("{} {} {}.{:09}", fs::path(archive).filename().string(), st.st_size, st.st_mtim.tv_sec,
                     st.st_mtim.tv_nsec);
}

absl::Status CopyFolderItself(const fs::path& from, const fs::path& to) {
  struct stat st {};
  if (stat(from.c_str(), &st) != 0) return ErrnoToStatus(errno, fmt::format("stat '{}'", from.string()));
  if (mkdir(to.c_str(), 0700) != 0 && errno != EEXIST)
    return ErrnoToStatus(errno, fmt::format("make '{}'", to.string()));
  if (chown(to.c_str(), st.st_uid, st.st_gid) != 0 || chmod(to.c_str(), st.st_mode & 07777) != 0) {
    return ErrnoToStatus(errno, fmt::format("set owner and mode of '{}'", to.string()));
  }
  return absl::OkStatus();
}

absl::Status CopyTree(const fs::path& from, const fs::path& to) {
  HK_RETURN_IF_ERROR(CopyFolderItself(from, to));
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(from, error)) {
    const fs::path target = to / entry.path().filename();
    if (entry.is_directory(error) && !entry.is_symlink(error)) {
      HK_RETURN_IF_ERROR(CopyTree(entry.path(), target));
      continue;
    }
    const bool database = entry.path().extension() == ".db";
    if (!database && linkat(AT_FDCWD, entry.path().c_str(), AT_FDCWD, target.c_str(), 0) == 0) continue;
    if (!database && errno != EXDEV) return ErrnoToStatus(errno, fmt::format("link '{}'", target.string()));
    fs::copy(entry.path(), target, fs::copy_options::copy_symlinks, error);  // a seed on another file system
    if (error) return ErrnoToStatus(error.value(), fmt::format("copy '{}'", target.string()));
  }
  if (error) return ErrnoToStatus(error.value(), fmt::format("read '{}'", from.string()));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ImageSet> FindImages(const std::string& folder) {
  const std::string where = folder.empty() ? DefaultFolder() : folder;
  ImageSet images;
  std::set<std::string> in_seed;
  if (absl::StatusOr<std::string> list = sys::ReadFile(where + "/seed/" + kSeedList); list.ok()) {
    images.seed = where + "/seed";
    std::istringstream lines(*list);
    for (std::string line; std::getline(lines, line);) in_seed.insert(line);
  }
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(where, error)) {
    if (entry.path().extension() != ".tar") continue;
    ++images.count;
    if (in_seed.count(Fingerprint(entry.path())) == 0) images.to_import.push_back(fs::absolute(entry.path()));
  }
  if (images.count == 0) {
    return ctl::WithHint(absl::NotFoundError(fmt::format("no image archives in '{}'", where)),
                         "`deploy/images/build` makes them; --images DIR names another folder");
  }
  std::sort(images.to_import.begin(), images.to_import.end());
  return images;
}

absl::Status PlantSeed(const ImageSet& images, const std::string& containerd_root) {
  if (images.seed.empty()) return absl::OkStatus();
  return Annotate(CopyTree(images.seed, containerd_root), "put the images in place");
}

absl::Status ImportArchives(const std::string& containerd_socket, const std::vector<std::string>& archives) {
  for (const std::string& archive : archives) {
    HK_ASSIGN_OR_RETURN(sys::RunResult result,
                        sys::Run({.argv = {"ctr", "-a", containerd_socket, "-n", "k8s.io", "images", "import", archive},
                                  .deadline = kImportDeadline}));
    if (result.exit_code != 0) {
      return absl::InternalError(fmt::format("import '{}': {}{}", archive, result.stdout_text, result.stderr_text));
    }
  }
  return absl::OkStatus();
}

}  // namespace heterok8s::lab
