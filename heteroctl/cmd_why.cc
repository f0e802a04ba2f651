#include "heteroctl/cmd_why.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <map>
#include <optional>

#include "heteroctl/admin_client.h"
#include "heteroctl/proto_json.h"

namespace heterok8s::ctl {
namespace {

// What the three daemons say about one Pod; absent where a daemon was not asked or does not know it. A Pod on the
// Node's own network never comes to CNI: only heterocri knows it.
struct Answers {
  std::optional<v1::WhyReply> host, dpu;
  std::optional<v1::PlacementsReply> placements;
  std::vector<std::string> silent;  // daemons that could not be asked, and why
};

std::string Since(int64_t unix_ms) {
  if (unix_ms <= 0) return "-";
  return fmt::format("{:%Y-%m-%d %H:%M:%S}Z", fmt::gmtime(static_cast<std::time_t>(unix_ms / 1000)));
}

// The containers of the Pod that `pod` (a UID, or namespace/name `named`) is; empty when there is none.
v1::PlacementsReply OfPod(const v1::PlacementsReply& all, const std::string& pod, const std::string& named) {
  v1::PlacementsReply mine;
  for (const v1::Placement& p : all.placements()) {
    if (p.pod_uid() == pod || fmt::format("{}/{}", p.pod_namespace(), p.pod_name()) == named)
      *mine.add_placements() = p;
  }
  return mine;
}

absl::StatusOr<Answers> Ask(const Output& output, const Endpoints& endpoints, const std::string& pod) {
  Answers answers;
  Progress progress(output, fmt::format("asking about '{}'", pod));
  std::optional<absl::Status> not_found;
  const auto take = [&](absl::StatusOr<v1::WhyReply> reply, std::optional<v1::WhyReply>& into) {
    if (reply.ok()) {
      into = *std::move(reply);
    } else if (absl::IsNotFound(reply.status())) {
      if (!not_found) not_found = reply.status();
    } else {
      answers.silent.push_back(Message(reply.status()));
      if (!not_found) not_found = reply.status();
    }
  };
  const std::string named = pod.find('/') == std::string::npos ? "default/" + pod : pod;
  const auto ask = [&](const char* what, const std::string& socket, std::optional<v1::WhyReply>& into) {
    AdminClient client(what, socket);
    absl::StatusOr<v1::WhyReply> reply = client.Why(pod);
    // "web" is the Pod default/web unless it is a UID.
    if (absl::IsNotFound(reply.status()) && named != pod) {
      if (absl::StatusOr<v1::WhyReply> by_name = client.Why(named); by_name.ok()) reply = std::move(by_name);
    }
    take(std::move(reply), into);
  };
  ask("heterod on the host", endpoints.host_admin, answers.host);
  if (!endpoints.dpu_admin.empty()) ask("heterod on the DPU", endpoints.dpu_admin, answers.dpu);
  const bool known = answers.host || answers.dpu;
  const std::string uid = answers.host ? answers.host->pod_key() : known ? answers.dpu->pod_key() : "";
  absl::StatusOr<v1::PlacementsReply> placements = Placements(endpoints.cri, uid);
  if (placements.ok() && !known) *placements = OfPod(*placements, pod, named);
  if (!known && (!placements.ok() || placements->placements_size() == 0)) return *not_found;
  if (placements.ok()) {
    answers.placements = *std::move(placements);
  } else if (placements.status().code() != absl::StatusCode::kUnimplemented) {
    answers.silent.push_back(Message(placements.status()));
  }
  return answers;
}

// Both PUs list all ports; the owner's own entry is the one that knows since when.
std::map<std::string, v1::PortOwner> JoinPorts(const Answers& answers) {
  std::map<std::string, v1::PortOwner> ports;
  for (const auto* reply : {&answers.host, &answers.dpu}) {
    if (!*reply) continue;
    for (const v1::PortOwner& port : (*reply)->ports()) {
      v1::PortOwner& known = ports[port.owner() + " " + port.port()];
      if (known.since_unix_ms() == 0) known = port;
    }
  }
  return ports;
}

std::vector<std::string> Refusals(const Answers& answers) {
  std::vector<std::string> refusals;
  for (const auto* reply : {&answers.host, &answers.dpu}) {
    if (*reply && !(*reply)->last_refusal().empty()) refusals.push_back((*reply)->last_refusal());
  }
  return refusals;
}

nlohmann::json ToJson(const Answers& answers) {
  nlohmann::json json = {{"host", answers.host ? ctl::ToJson(*answers.host) : nlohmann::json()},
                         {"dpu", answers.dpu ? ctl::ToJson(*answers.dpu) : nlohmann::json()},
                         {"containers", nlohmann::json::array()},
                         {"ports", nlohmann::json::array()},
                         {"last_refusals", Refusals(answers)},
                         {"not_asked", answers.silent}};
  if (answers.placements) {
    for (const v1::Placement& p : answers.placements->placements()) json["containers"].push_back(ctl::ToJson(p));
  }
  for (const auto& [key, port] : JoinPorts(answers)) json["ports"].push_back(ctl::ToJson(port));
  return json;
}

Table Pod(const Answers& answers) {
  Table table({"", ""});
  const auto row = [&](const char* name, Cell cell) { table.Row({{name, Style::kDim}, std::move(cell)}); };
  if (!answers.host && !answers.dpu) {
    const v1::Placement& any = answers.placements->placements(0);
    row("Pod", {fmt::format("{}/{}", any.pod_namespace(), any.pod_name()), Style::kStrong});
    row("UID", any.pod_uid());
    row("network", "heterod has no attachment of it: the Node's own network (hostNetwork), or its attachment is gone");
    return table;
  }
  const v1::WhyReply& pod = answers.host ? *answers.host : *answers.dpu;
  row("Pod", {fmt::format("{}/{}", pod.pod_namespace(), pod.pod_name()), Style::kStrong});
  row("UID", pod.pod_key());
  row("placed", pod.mode() == "ordinary" ? "all on the host" : "split over host and DPU");
  if (!pod.placement_reason().empty()) row("because", pod.placement_reason());
  row("addresses", fmt::format("{}", fmt::join(pod.addresses(), ", ")));
  for (const std::string& port : pod.host_ports()) row("host port", port);
  const auto half = [&](const char* name, const std::optional<v1::WhyReply>& reply) {
    if (!reply) return;
    row(name, fmt::format("{}, generation {}, {}", reply->state(), reply->generation(), reply->netns_path()));
  };
  half("host half", answers.host);
  half("DPU half", answers.dpu);
  if (answers.host && answers.dpu && answers.host->generation() != answers.dpu->generation()) {
    row("generations", {"differ: the halves are being brought together", Style::kWarning});
  }
  return table;
}

absl::StatusOr<int> Why(Context& context, const std::string& pod) {
  HK_ASSIGN_OR_RETURN(Endpoints endpoints, FindEndpoints(context.endpoint_flags));
  absl::StatusOr<Answers> answers = Ask(context.output, endpoints, pod);
  if (absl::IsNotFound(answers.status())) {
    return WithHint(answers.status(), "name it NAMESPACE/NAME or by its UID; `heteroctl ps` lists Pods");
  }
  HK_RETURN_IF_ERROR(answers.status());
  const Output& out = context.output;
  if (out.json()) {
    out.Print(ToJson(*answers));
    return 0;
  }
  out.Print(Pod(*answers));
  if (answers->placements) {
    Table containers({"CONTAINER", "RUNS ON", "BECAUSE", "ID"});
    for (const v1::Placement& p : answers->placements->placements()) {
      containers.Row({p.container(),
                      {p.pu(), p.pu() == "dpu" ? Style::kGood : Style::kPlain},
                      p.reason(),
                      {p.container_id().substr(0, 13), Style::kDim}});
    }
    out.Line("");
    out.Print(containers);
  }
  Table ports({"PORT", "OWNER", "SINCE"});
  for (const auto& [key, port] : JoinPorts(*answers)) {
    ports.Row({port.port(),
               {port.owner(), port.owner() == "dpu" ? Style::kGood : Style::kPlain},
               Since(port.since_unix_ms())});
  }
  if (!ports.empty()) {
    out.Line("");
    out.Print(ports);
  }
  for (const std::string& refusal : Refusals(*answers)) out.Line("last refusal: " + refusal, Style::kWarning);
  for (const std::string& reason : answers->silent) out.Warn(reason);
  return 0;
}

}  // namespace

void RegisterWhy(CLI::App& app, Context& context) {
  CLI::App* sub =
      app.add_subcommand("why", "Where a Pod's containers run and why, who owns its ports, what was refused");
  auto pod = std::make_shared<std::string>();
  sub->add_option("POD", *pod, "NAME, NAMESPACE/NAME or UID")->required();
  sub->callback([=, &context] { context.action = [=, &context] { return Why(context, *pod); }; });
}

}  // namespace heterok8s::ctl
