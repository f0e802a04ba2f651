#include "heteroctl/lab/init.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>

#include "common/sys/unique_fd.h"
#include "heteroctl/lab/control.h"
#include "heteroctl/lab/init_spec.h"
#include "heteroctl/lab/pu_mounts.h"
#include "heteroctl/lab/supervisor.h"

namespace heterok8s::lab {

absl::Status RunInit(const std::string& spec_path) {
  if (getpid() != 1) {
    return absl::FailedPreconditionError("lab-init is the first process of a PU; `heteroctl lab up` starts it");
  }
  // Everything outside is opened first: the PU's mounts cover it.
  HK_ASSIGN_OR_RETURN(InitSpec spec, ReadInitSpec(spec_path));
  sys::UniqueFd logs(open(spec.log_folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!logs.valid()) return ErrnoToStatus(errno, fmt::format("open '{}'", spec.log_folder));
  HK_ASSIGN_OR_RETURN(sys::UniqueFd control, ListenControl(spec.control));

  if (sethostname(spec.hostname.data(), spec.hostname.size()) != 0) return ErrnoToStatus(errno, "set the hostname");
  HK_RETURN_IF_ERROR(MountPu(spec));
  if (chdir("/") != 0) return ErrnoToStatus(errno, "go to '/'");
  return Supervisor(spec.daemons, logs.get(), spec.log_prefix).Loop(control.get());
}

}  // namespace heterok8s::lab
