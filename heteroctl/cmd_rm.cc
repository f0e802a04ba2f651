#include <fmt/format.h>

#include <memory>
#include <set>

#include "heteroctl/cmd_pods.h"
#include "heteroctl/pod/runner.h"

namespace heterok8s::ctl {
namespace {

struct RmFlags {
  std::vector<std::string> names;
  std::string root;
  bool all = false, force = false;
};

absl::StatusOr<int> Rm(Context& context, const RmFlags& flags) {
  if (flags.names.empty() && !flags.all) {
    return WithHint(absl::InvalidArgumentError("no Pod named"), "heteroctl rm POD…, or --all");
  }
  HK_ASSIGN_OR_RETURN(Endpoints endpoints, FindEndpoints(context.endpoint_flags));
  HK_ASSIGN_OR_RETURN(std::unique_ptr<CriClient> cri, CriClient::Connect(endpoints.cri));
  HK_ASSIGN_OR_RETURN(const std::string root, PodRoot(flags.root, endpoints));
  std::vector<std::string> targets = flags.names;
  if (flags.all) {
    HK_ASSIGN_OR_RETURN(runtime::v1::ListPodSandboxResponse list, cri->ListPodSandbox());
    std::set<std::string> pods;  // one may have several sandboxes
    for (const auto& sandbox : list.items()) {
      const std::string& uid = sandbox.metadata().uid();
      if (pods.insert(uid.empty() ? sandbox.id() : uid).second) targets.push_back(sandbox.id());
    }
  }
  nlohmann::json removed = nlohmann::json::array();
  for (const std::string& name : targets) {
    absl::StatusOr<FoundPod> pod = FindPod(*cri, name);
    if (!pod.ok() && flags.force && pod.status().code() == absl::StatusCode::kNotFound) continue;
    if (!pod.ok()) return pod.status();
    std::string full = pod->sandbox.metadata().namespace_() + "/" + pod->sandbox.metadata().name();
    Progress progress(context.output, fmt::format("removing {}", full));
    HK_RETURN_IF_ERROR(Annotate(RemovePod(*cri, *pod, {.root = root, .cri_socket = endpoints.cri}),
                                fmt::format("remove Pod {}", full)));
    if (SaysFolder(*pod) && !HasFolderBeneath(*pod, root)) {
      context.output.Warn(fmt::format("the folder of Pod {} is not beneath '{}' and was left alone", full, root));
    }
    removed.push_back(full);
    if (!context.output.json()) context.output.Line(fmt::format("removed {}", full));
  }
  if (context.output.json()) context.output.Print(nlohmann::json{{"removed", removed}});
  return 0;
}

}  // namespace

void RegisterRm(CLI::App& app, Context& context) {
  CLI::App* sub = app.add_subcommand("rm", "Stop and remove Pods, with their volumes and logs");
  auto flags = std::make_shared<RmFlags>();
  sub->add_option("pod", flags->names, "name, namespace/name or UID");
  sub->add_flag("--all", flags->all, "Every Pod of this runtime");
  sub->add_flag("-f,--force", flags->force, "No error for a Pod that is gone");
  sub->add_option("--root", flags->root, "What `run` was told by --root");
  sub->callback([flags, &context] { context.action = [flags, &context] { return Rm(context, *flags); }; });
}

}  // namespace heterok8s::ctl
