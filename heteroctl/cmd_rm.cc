#include <fmt/format.h>

#include <memory>

#include "heteroctl/cmd_pods.h"
#include "heteroctl/pod/runner.h"

namespace heterok8s::ctl {
namespace {

absl::StatusOr<int> Rm(Context& context, const std::vector<std::string>& names, bool all, bool force) {
  if (names.empty() && !all) {
    return WithHint(absl::InvalidArgumentError("no Pod named"), "heteroctl rm POD…, or --all");
  }
  HK_ASSIGN_OR_RETURN(Endpoints endpoints, FindEndpoints(context.endpoint_flags));
  HK_ASSIGN_OR_RETURN(std::unique_ptr<CriClient> cri, CriClient::Connect(endpoints.cri));
  std::vector<std::string> targets = names;
  if (all) {
    HK_ASSIGN_OR_RETURN(runtime::v1::ListPodSandboxResponse list, cri->ListPodSandbox());
    for (const auto& sandbox : list.items()) targets.push_back(sandbox.id());
  }
  nlohmann::json removed = nlohmann::json::array();
  for (const std::string& name : targets) {
    absl::StatusOr<FoundPod> pod = FindPod(*cri, name);
    if (!pod.ok() && force && pod.status().code() == absl::StatusCode::kNotFound) continue;
    if (!pod.ok()) return pod.status();
    std::string full = pod->sandbox.metadata().namespace_() + "/" + pod->sandbox.metadata().name();
    Progress progress(fmt::format("removing {}", full));
    HK_RETURN_IF_ERROR(Annotate(RemovePod(*cri, *pod), fmt::format("remove Pod {}", full)));
    removed.push_back(full);
    if (!context.output.json()) context.output.Line(fmt::format("removed {}", full));
  }
  if (context.output.json()) context.output.Print(nlohmann::json{{"removed", removed}});
  return 0;
}

}  // namespace

void RegisterRm(CLI::App& app, Context& context) {
  CLI::App* sub = app.add_subcommand("rm", "Stop and remove Pods, with their volumes and logs");
  auto names = std::make_shared<std::vector<std::string>>();
  auto all = std::make_shared<bool>(false);
  auto force = std::make_shared<bool>(false);
  sub->add_option("pod", *names, "name, namespace/name or UID");
  sub->add_flag("--all", *all, "Every Pod of this runtime");
  sub->add_flag("-f,--force", *force, "No error for a Pod that is gone");
  sub->callback([=, &context] { context.action = [=, &context] { return Rm(context, *names, *all, *force); }; });
}

}  // namespace heterok8s::ctl
