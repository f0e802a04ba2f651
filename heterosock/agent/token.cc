#include "heterosock/agent/token.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <span>

#include "common/bpf/handles.h"
#include "common/bpf/mounts.h"
#include "common/bpf/object.h"
#include "common/bpf/probe.h"
#include "common/sys/unique_fd.h"
#include "heterosock/agent/token_layout.h"
#include "heterosock/agent/token_program.bpf.h"

namespace heterok8s::heterosock::agent {

struct BpfTokens::Object {
  bpf::BpfObject object;
  int map = -1;
};

namespace {

// A link stays at the cgroup that it was made for, whatever program it is given.
bool IsOfAnotherCgroup(const std::string& pin, int cgroup) {
  sys::UniqueFd link(bpf_obj_get(pin.c_str()));
  bpf_link_info info{};
  __u32 length = sizeof info;
  struct stat st {};
  if (!link.valid() || bpf_obj_get_info_by_fd(link.get(), &info, &length) != 0 || fstat(cgroup, &st) != 0) return false;
  return info.cgroup.cgroup_id != st.st_ino;  // the id is the inode's number (kernfs_ino(), include/linux/kernfs.h)
}

}  // namespace

BpfTokens::BpfTokens() : object_(std::make_unique<Object>()) {}
BpfTokens::~BpfTokens() = default;

absl::StatusOr<std::unique_ptr<BpfTokens>> BpfTokens::Attach(const Options& options) {
  // Before 5.11 maps count as locked memory; later the limit does not matter, so failure to lift it does not either.
  rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
  setrlimit(RLIMIT_MEMLOCK, &unlimited);
  if (!bpf::CanLoad(BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS)) {
    return absl::UnimplementedError("no cgroup/sock_ops programs (CONFIG_CGROUP_BPF, CAP_BPF and CAP_NET_ADMIN)");
  }
  if (!bpf::HasHelper(BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS, BPF_FUNC_store_hdr_opt)) {
    return absl::UnimplementedError("no bpf_store_hdr_opt (kernel >= 5.10)");
  }
  std::unique_ptr<BpfTokens> tokens(new BpfTokens);
  tokens->cgroup_ = options.cgroup;
  if (tokens->cgroup_.empty()) {
    const std::string beside = std::filesystem::path(options.bpffs).parent_path() / "cgroup2";
    HK_ASSIGN_OR_RETURN(tokens->cgroup_, bpf::EnsureCgroup2(beside));
  }
  sys::UniqueFd cgroup(open(tokens->cgroup_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!cgroup.valid()) return ErrnoToStatus(errno, fmt::format("open cgroup '{}'", tokens->cgroup_));
  HK_RETURN_IF_ERROR(bpf::EnsureBpffs(options.bpffs));
  HK_ASSIGN_OR_RETURN(tokens->object_->object,
                      bpf::OpenObject({token_program_bpf, token_program_bpf_len}, "heterosock_token"));
  bpf_object* object = tokens->object_->object.get();
  HK_RETURN_IF_ERROR(bpf::LoadObject(object, options.bpffs + "/maps"));
  const std::string pin = options.bpffs + "/links/token";
  if (IsOfAnotherCgroup(pin, cgroup.get())) HK_RETURN_IF_ERROR(bpf::Unpin(pin));
  HK_RETURN_IF_ERROR(bpf::AttachCgroup(bpf_object__find_program_by_name(object, "hk_token"), cgroup.get(), pin,
                                       /*replace=*/true));
  tokens->object_->map = bpf_map__fd(bpf_object__find_map_by_name(object, "tokens"));
  return tokens;
}

TokenReader::Token BpfTokens::Read(int socket) const {
  hk_token token{};
  if (bpf_map_lookup_elem(object_->map, &socket, &token) != 0) return {};
  return {.value = token.value, .connected = token.connected != 0};
}

void BpfTokens::Detach(const std::string& bpffs) {
  std::error_code error;
  for (const char* folder : {"links", "maps"}) std::filesystem::remove_all(bpffs + "/" + folder, error);
  umount2(bpffs.c_str(), MNT_DETACH);
}

}  // namespace heterok8s::heterosock::agent
