#include "common/bpf/object.h"

#include <bpf/bpf.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "common/bpf/log.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::bpf {
namespace {

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

absl::Status MakeFolder(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return ErrnoToStatus(error.value(), fmt::format("make '{}'", folder));
  return absl::OkStatus();
}

// A link whose namespace or cgroup died is still pinned but attached to nothing.
bool IsDefunct(const std::string& pin) {
  sys::UniqueFd fd(bpf_obj_get(pin.c_str()));
  bpf_link_info info{};
  __u32 length = sizeof info;
  if (!fd.valid() || bpf_obj_get_info_by_fd(fd.get(), &info, &length) != 0) return true;
  if (info.type == BPF_LINK_TYPE_CGROUP) return info.cgroup.cgroup_id == 0;
  if (info.type == BPF_LINK_TYPE_NETNS) return info.netns.netns_ino == 0;
  return false;
}

template <typename Attach>
absl::Status AttachPinned(const bpf_program* program, const std::string& pin, bool replace, Attach attach) {
  std::string what = fmt::format("attach BPF program '{}'", bpf_program__name(program));
  if (Exists(pin)) {
    if (!IsDefunct(pin)) return replace ? ReplaceProgram(program, pin) : absl::OkStatus();
    HK_RETURN_IF_ERROR(Unpin(pin));
  }
  HK_RETURN_IF_ERROR(MakeFolder(std::filesystem::path(pin).parent_path()));
  LogCapture log;
  BpfLink link(attach());
  if (link == nullptr) {
    if (errno == E2BIG) {
      return absl::ResourceExhaustedError(
          fmt::format("{}: 64 programs of this type are attached there already, the kernel's limit; "
                      "`bpftool cgroup tree` and `bpftool net` list them",
                      what));
    }
    return log.Error(errno, what);
  }
  if (int error = bpf_link__pin(link.get(), pin.c_str()); error != 0) {
    return log.Error(-error, fmt::format("pin '{}'", pin));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BpfObject> OpenObject(std::span<const unsigned char> bytes, const std::string& name) {
  LogCapture log;
  LIBBPF_OPTS(bpf_object_open_opts, options, .object_name = name.c_str());
  BpfObject object(bpf_object__open_mem(bytes.data(), bytes.size(), &options));
  if (object == nullptr) return log.Error(errno, fmt::format("open BPF object '{}'", name));
  return object;
}

absl::Status LoadObject(bpf_object* object, const std::string& map_folder) {
  HK_RETURN_IF_ERROR(MakeFolder(map_folder));
  LogCapture log;
  bpf_map* map = nullptr;
  bpf_object__for_each_map(map, object) {
    if (bpf_map__is_internal(map)) continue;
    std::string pin = fmt::format("{}/{}", map_folder, bpf_map__name(map));
    if (int error = bpf_map__set_pin_path(map, pin.c_str()); error != 0) {
      return log.Error(-error, fmt::format("set pin '{}'", pin));
    }
  }
  if (int error = bpf_object__load(object); error != 0) {
    std::string what = fmt::format("load BPF object '{}'", bpf_object__name(object));
    absl::Status status = log.Error(-error, what);
    if (Message(status).find("parameter mismatch") == std::string::npos) return status;
    return absl::FailedPreconditionError(Message(status));
  }
  return absl::OkStatus();
}

absl::Status AttachCgroup(const bpf_program* program, int cgroup_fd, const std::string& pin, bool replace) {
  return AttachPinned(program, pin, replace, [&] { return bpf_program__attach_cgroup(program, cgroup_fd); });
}

absl::Status AttachNetns(const bpf_program* program, int netns_fd, const std::string& pin, bool replace) {
  return AttachPinned(program, pin, replace, [&] { return bpf_program__attach_netns(program, netns_fd); });
}

absl::Status ReplaceProgram(const bpf_program* program, const std::string& pin) {
  LogCapture log;
  BpfLink link(bpf_link__open(pin.c_str()));
  if (link == nullptr) return log.Error(errno, fmt::format("open pinned link '{}'", pin));
  if (int error = bpf_link__update_program(link.get(), const_cast<bpf_program*>(program)); error != 0) {
    return log.Error(-error, fmt::format("replace the program of '{}'", pin));
  }
  return absl::OkStatus();
}

absl::Status Unpin(const std::string& pin) {
  if (unlink(pin.c_str()) != 0 && errno != ENOENT) return ErrnoToStatus(errno, fmt::format("remove pin '{}'", pin));
  return absl::OkStatus();
}

uint64_t HashBytes(std::span<const unsigned char> bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (unsigned char byte : bytes) hash = (hash ^ byte) * 0x100000001b3;
  return hash;
}

}  // namespace heterok8s::bpf
