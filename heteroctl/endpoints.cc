#include "heteroctl/endpoints.h"

#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "common/sys/file.h"
#include "heteroctl/output.h"

namespace heterok8s::ctl {
namespace {

std::string FirstOf(const std::string& flag, const char* variable, const std::string& otherwise) {
  if (!flag.empty()) return flag;
  const char* value = std::getenv(variable);
  return value != nullptr && *value != '\0' ? value : otherwise;
}

absl::StatusOr<Endpoints> ReadLab(const std::string& name, const std::string& lab_run_dir) {
  const std::string path = fmt::format("{}/{}/env.json", lab_run_dir, name);
  absl::StatusOr<std::string> text = sys::ReadFile(path);
  if (!text.ok()) {
    return WithHint(Annotate(text.status(), fmt::format("lab '{}'", name)),
                    fmt::format("`heteroctl lab up {}` starts it", name));
  }
  const nlohmann::json json = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError(fmt::format("'{}' is no JSON object", path));
  auto get = [&](const char* key) -> std::string {
    auto it = json.find(key);
    return it != json.end() && it->is_string() ? it->get<std::string>() : "";
  };
  return Endpoints{.host_admin = get("host_admin"),
                   .dpu_admin = get("dpu_admin"),
                   .cri = get("cri"),
                   .pod_root = get("pod_root"),
                   .cgroup_parent = get("cgroup_parent")};
}

}  // namespace

absl::StatusOr<Endpoints> FindEndpoints(const EndpointFlags& flags, const std::string& lab_run_dir) {
  Endpoints found{.host_admin = "/run/heterok8s/admin.sock",
                  .dpu_admin = "",
                  .cri = "/run/heterok8s/cri.sock",
                  .pod_root = "/var/lib/heterok8s/pods",
                  .cgroup_parent = ""};
  if (const std::string lab = FirstOf(flags.lab, "HETEROK8S_LAB", ""); !lab.empty()) {
    HK_ASSIGN_OR_RETURN(found, ReadLab(lab, lab_run_dir));
  }
  found.host_admin = FirstOf(flags.host_socket, "HETEROK8S_HOST_SOCKET", found.host_admin);
  found.dpu_admin = FirstOf(flags.dpu_socket, "HETEROK8S_DPU_SOCKET", found.dpu_admin);
  found.cri = FirstOf(flags.cri_socket, "HETEROK8S_CRI_SOCKET", found.cri);
  return found;
}

absl::StatusOr<std::string> PodRoot(const std::string& flag, const Endpoints& endpoints) {
  const std::string& said = flag.empty() ? endpoints.pod_root : flag;
  if (said.empty())
    return WithHint(absl::InvalidArgumentError("the lab does not say where its Pods are"), "--root FOLDER");
  std::error_code error;
  const std::filesystem::path root = std::filesystem::absolute(said, error);
  if (error) return ErrnoToStatus(error.value(), fmt::format("find folder '{}'", said));
  return root.string();
}

std::string GrpcTarget(const std::string& socket) {
  return socket.find(':') == std::string::npos ? "unix:" + socket : socket;
}

}  // namespace heterok8s::ctl
