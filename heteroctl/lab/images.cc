#include "heteroctl/lab/images.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "common/sys/process.h"
#include "heteroctl/output.h"

namespace heterok8s::lab {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds kImportDeadline{60};

std::string DefaultFolder() {
  if (const char* folder = getenv("HETEROK8S_IMAGES"); folder != nullptr && *folder != '\0') return folder;
  std::error_code error;
  for (fs::path at = fs::current_path(error); !at.empty(); at = at.parent_path()) {
    if (fs::is_directory(at / ".build/images", error)) return at / ".build/images";
    if (at == at.root_path()) break;
  }
  return ".build/images";
}

}  // namespace

absl::StatusOr<std::vector<std::string>> FindImages(const std::string& folder) {
  const std::string where = folder.empty() ? DefaultFolder() : folder;
  std::vector<std::string> archives;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(where, error)) {
    if (entry.path().extension() == ".tar") archives.push_back(fs::absolute(entry.path()));
  }
  if (archives.empty()) {
    return ctl::WithHint(absl::NotFoundError(fmt::format("no image archives in '{}'", where)),
                         "`deploy/images/build` makes them; --images DIR names another folder");
  }
  std::sort(archives.begin(), archives.end());
  return archives;
}

absl::Status ImportImages(const std::string& containerd_socket, const std::vector<std::string>& archives) {
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
