#include "node-agent/start.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>

#include "common/sys/capabilities.h"
#include "common/sys/file.h"

namespace heterok8s::agent {
namespace {

constexpr char kEpochName[] = "epoch";

}  // namespace

absl::Status DropCapabilities() {
  return sys::KeepCapabilities({
      // Each with what needs it.
      CAP_NET_ADMIN,         // links, routes, rules, sysctls, nft
      CAP_SYS_ADMIN,         // entering namespaces, mounting bpffs and namespaces
      CAP_NET_RAW,           // sockets on interfaces
      CAP_NET_BIND_SERVICE,  // a configured port below 1024
      CAP_BPF,               // programs and maps
      CAP_PERFMON,           // programs that look at the kernel's structures
      CAP_SYS_PTRACE,        // namespaces and sockets of containers' processes
      CAP_SYS_RESOURCE,      // locked memory of BPF maps where the kernel still counts it so
      CAP_DAC_OVERRIDE,      // namespace files, logs and volumes of other users
      CAP_DAC_READ_SEARCH,
      CAP_CHOWN,  // volumes on the DPU keep their owners
      CAP_FOWNER,
      CAP_FSETID,  // and the bit by which files in them get the group of fsGroup: chmod(2) drops it for other groups
      CAP_KILL,    // an IPAM plugin that runs past its deadline
  });
}

absl::Status MakeFolder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return ErrnoToStatus(errno, fmt::format("make '{}'", path));
  if (chmod(path.c_str(), 0700) != 0) return ErrnoToStatus(errno, fmt::format("chmod '{}'", path));
  return absl::OkStatus();
}

absl::StatusOr<sys::UniqueFd> LockRunDir(const std::string& run_dir) {
  const std::string path = run_dir + "/heterod.lock";
  sys::UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoToStatus(errno, fmt::format("open '{}'", path));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return absl::AlreadyExistsError(fmt::format("another heterod uses '{}'", run_dir));
    return ErrnoToStatus(errno, fmt::format("lock '{}'", path));
  }
  return fd;
}

absl::StatusOr<std::string> BootId() {
  HK_ASSIGN_OR_RETURN(std::string text, sys::ReadFile("/proc/sys/kernel/random/boot_id", 128));
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

absl::StatusOr<uint64_t> NextEpoch(ledger::Ledger& ledger) {
  using namespace std::chrono;
  const uint64_t now = static_cast<uint64_t>(duration_cast<seconds>(system_clock::now().time_since_epoch()).count());
  uint64_t epoch = 0;
  HK_RETURN_IF_ERROR(ledger.Transact([&](ledger::Tx& tx) -> absl::Status {
    HK_ASSIGN_OR_RETURN(std::optional<std::string> last, tx.GetValue(kEpochName));
    // The clock only matters when the ledger is new: it keeps a lost one from repeating epochs.
    epoch = std::max<uint64_t>(now, last ? std::strtoull(last->c_str(), nullptr, 10) + 1 : 0);
    return tx.PutValue(kEpochName, std::to_string(epoch));
  }));
  return epoch;
}

}  // namespace heterok8s::agent
