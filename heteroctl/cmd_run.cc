#include <fmt/format.h>

#include <iostream>
#include <memory>
#include <set>
#include <sstream>

#include "common/sys/file.h"
#include "heteroctl/cmd_pods.h"
#include "heteroctl/manifest/names.h"
#include "heteroctl/pod/runner.h"

namespace heterok8s::ctl {
namespace {

constexpr size_t kMaxManifestBytes = 4u << 20;

struct RunFlags {
  std::string file, root, cgroup_parent, name;
  std::vector<std::string> annotations;
  bool keep = false;
};

absl::StatusOr<std::string> ReadManifest(const std::string& file) {
  if (file != "-") return sys::ReadFile(file, kMaxManifestBytes);
  std::string text(kMaxManifestBytes + 1, '\0');
  std::cin.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(std::cin.gcount()));
  if (text.size() <= kMaxManifestBytes) return text;
  return absl::ResourceExhaustedError(fmt::format("standard input is longer than {} bytes", kMaxManifestBytes));
}

absl::Status ApplyAnnotations(const std::vector<std::string>& pairs, manifest::Pod& pod) {
  for (const std::string& pair : pairs) {
    size_t equals = pair.find('=');
    if (equals == std::string::npos || equals == 0) {
      return absl::InvalidArgumentError(fmt::format("--annotate '{}': write it as key=value", pair));
    }
    pod.annotations[pair.substr(0, equals)] = pair.substr(equals + 1);
  }
  return absl::OkStatus();
}

// heterocri sees containers one by one and cannot know that a name will never come; the manifest can.
void WarnOfUnknownNames(const Context& context, const manifest::Pod& pod) {
  auto said = pod.annotations.find("heteropod.io/offload-containers");
  if (said == pod.annotations.end()) return;
  std::set<std::string> known;
  for (const auto* containers : {&pod.init_containers, &pod.containers}) {
    for (const manifest::Container& container : *containers) known.insert(container.name);
  }
  std::istringstream names(said->second);
  for (std::string name; std::getline(names, name, ',');) {
    name.erase(0, name.find_first_not_of(" \t"));
    name.erase(name.find_last_not_of(" \t") + 1);
    if (!name.empty() && !known.contains(name)) {
      context.output.Warn(fmt::format("annotation {}: the Pod has no container '{}'", said->first, name));
    }
  }
}

std::string PuOf(const v1::PlacementsReply& placements, const std::string& id, std::string& reason) {
  for (const v1::Placement& placement : placements.placements()) {
    if (placement.container_id() != id) continue;
    reason = placement.reason();
    return placement.pu();
  }
  return "host";
}

void Show(const Context& context, const manifest::Pod& pod, const RunningPod& running,
          const v1::PlacementsReply& placements) {
  if (context.output.json()) {
    nlohmann::json containers = nlohmann::json::array();
    for (const StartedContainer& started : running.containers) {
      std::string reason;
      std::string pu = PuOf(placements, started.id, reason);
      containers.push_back({{"name", started.name}, {"id", started.id}, {"pu", pu}, {"reason", reason}});
    }
    context.output.Print(nlohmann::json{{"namespace", pod.pod_namespace},
                                        {"name", pod.name},
                                        {"uid", running.uid},
                                        {"sandbox_id", running.sandbox_id},
                                        {"ip", running.ip},
                                        {"containers", containers}});
    return;
  }
  context.output.Line(fmt::format("Pod {}/{} runs at {}", pod.pod_namespace, pod.name, running.ip), Style::kStrong);
  Table table({"CONTAINER", "PU", "ID", "WHY THERE"});
  for (const StartedContainer& started : running.containers) {
    std::string reason;
    std::string pu = PuOf(placements, started.id, reason);
    table.Row({started.name,
               {pu, pu == "dpu" ? Style::kGood : Style::kPlain},
               started.id.substr(0, 12),
               {reason, Style::kDim}});
  }
  context.output.Print(table);
}

absl::StatusOr<int> Run(Context& context, const RunFlags& flags) {
  HK_ASSIGN_OR_RETURN(std::string text, ReadManifest(flags.file));
  HK_ASSIGN_OR_RETURN(manifest::Manifest manifest,
                      manifest::ParseManifest(text, flags.file == "-" ? "standard input" : flags.file));
  for (const std::string& warning : manifest.warnings) context.output.Warn(warning);
  HK_RETURN_IF_ERROR(ApplyAnnotations(flags.annotations, manifest.pod));
  if (!flags.name.empty() && !manifest::IsDnsSubdomain(flags.name)) {
    return absl::InvalidArgumentError("--name: not a name (lower case letters, digits, '-', single dots)");
  }
  if (!flags.name.empty()) manifest.pod.name = flags.name;
  WarnOfUnknownNames(context, manifest.pod);

  HK_ASSIGN_OR_RETURN(Endpoints endpoints, FindEndpoints(context.endpoint_flags));
  HK_ASSIGN_OR_RETURN(std::unique_ptr<CriClient> cri, CriClient::Connect(endpoints.cri));
  HK_ASSIGN_OR_RETURN(const std::string root, PodRoot(flags.root, endpoints));
  RunOptions options{.root = root,
                     .cgroup_parent = flags.cgroup_parent.empty() ? endpoints.cgroup_parent : flags.cgroup_parent,
                     .cri_socket = endpoints.cri,
                     .keep_on_failure = flags.keep};
  const manifest::Pod pod = manifest.pod;
  Progress progress(context.output, fmt::format("Pod {}/{}", pod.pod_namespace, pod.name));
  HK_ASSIGN_OR_RETURN(RunningPod running, RunPod(*cri, std::move(manifest), options, [&](const std::string& what) {
                        progress.Update(fmt::format("Pod {}/{}: {}", pod.pod_namespace, pod.name, what));
                      }));
  // Only heterocri knows of two PUs; with any other runtime all containers are on the host.
  absl::StatusOr<v1::PlacementsReply> placements = cri->Placements(running.uid);
  Show(context, pod, running, placements.ok() ? *placements : v1::PlacementsReply());
  return 0;
}

}  // namespace

void RegisterRun(CLI::App& app, Context& context) {
  CLI::App* sub = app.add_subcommand("run", "Run the Pod of a manifest (Pod and ConfigMap documents)");
  auto flags = std::make_shared<RunFlags>();
  sub->add_option("file", flags->file, "Manifest; - for standard input")->required();
  sub->add_option("--annotate", flags->annotations, "key=value on the Pod, e.g. heteropod.io/offload=dpu (repeatable)")
      ->allow_extra_args(false);
  sub->add_option("--name", flags->name, "Another name for the Pod");
  sub->add_option("--root", flags->root, "Folder for volumes and logs, the same path for the runtime on the host");
  sub->add_option("--cgroup-parent", flags->cgroup_parent, "Parent of the Pod's cgroups");
  sub->add_flag("--keep", flags->keep, "Keep what was made when the Pod fails to start");
  sub->callback([flags, &context] { context.action = [flags, &context] { return Run(context, *flags); }; });
}

}  // namespace heterok8s::ctl
