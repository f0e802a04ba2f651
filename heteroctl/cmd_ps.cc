#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <optional>

#include "heteroctl/cmd_pods.h"
#include "heteroctl/pod/runner.h"

namespace heterok8s::ctl {
namespace {

namespace cri = runtime::v1;

const char* StateName(cri::ContainerState state) {
  switch (state) {
    case cri::CONTAINER_CREATED:
      return "created";
    case cri::CONTAINER_RUNNING:
      return "running";
    case cri::CONTAINER_EXITED:
      return "exited";
    default:
      return "unknown";
  }
}

struct Row {
  std::string pod, ip, container, id, pu, state, reason;
  std::string ended;  // why an ended container ended: "DPULost", "Error", "Completed", …
  int exit_code = 0;
  int64_t created_at_ns = 0;
};

// "running"; "exited: DPULost"; "exited: Error 7".
std::string StateText(const Row& row) {
  if (row.state != "exited" || row.ended.empty() || row.ended == "Completed") return row.state;
  return row.ended == "Error" ? fmt::format("exited: Error {}", row.exit_code) : fmt::format("exited: {}", row.ended);
}

absl::StatusOr<std::vector<Row>> Collect(CriClient& cri) {
  HK_ASSIGN_OR_RETURN(cri::ListPodSandboxResponse sandboxes, cri.ListPodSandbox());
  HK_ASSIGN_OR_RETURN(cri::ListContainersResponse containers, cri.ListContainers());
  std::map<std::string, std::string> pu_of, why;
  if (auto placements = cri.Placements(""); placements.ok()) {
    for (const v1::Placement& p : placements->placements()) {
      pu_of[p.container_id()] = p.pu();
      why[p.container_id()] = p.reason();
    }
  }
  std::vector<Row> rows;
  for (const cri::PodSandbox& sandbox : sandboxes.items()) {
    std::string pod = sandbox.metadata().namespace_() + "/" + sandbox.metadata().name();
    std::string ip;
    if (auto status = cri.PodSandboxStatus(sandbox.id()); status.ok()) ip = status->network().ip();
    size_t before = rows.size();
    for (const cri::Container& container : containers.containers()) {
      if (container.pod_sandbox_id() != sandbox.id()) continue;
      rows.push_back({pod, ip, container.metadata().name(), container.id(),
                      pu_of.contains(container.id()) ? pu_of[container.id()] : "host", StateName(container.state()),
                      why[container.id()], "", 0, container.created_at()});
      if (container.state() != cri::CONTAINER_EXITED) continue;
      if (auto status = cri.ContainerStatus(container.id()); status.ok()) {
        rows.back().ended = status->reason();
        rows.back().exit_code = status->exit_code();
      }
    }
    if (rows.size() == before) {
      rows.push_back({pod, ip, "", "", "", sandbox.state() == cri::SANDBOX_READY ? "no containers" : "not ready", "",
                      "", 0, sandbox.created_at()});
    }
  }
  std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) {
    return std::tie(a.pod, a.created_at_ns) < std::tie(b.pod, b.created_at_ns);
  });
  return rows;
}

absl::StatusOr<int> Ps(Context& context) {
  HK_ASSIGN_OR_RETURN(Endpoints endpoints, FindEndpoints(context.endpoint_flags));
  std::optional<Progress> progress(std::in_place, context.output, "asking for Pods and containers");
  HK_ASSIGN_OR_RETURN(std::unique_ptr<CriClient> cri, CriClient::Connect(endpoints.cri));
  HK_ASSIGN_OR_RETURN(std::vector<Row> rows, Collect(*cri));
  progress.reset();
  if (context.output.json()) {
    nlohmann::json list = nlohmann::json::array();
    for (const Row& row : rows) {
      list.push_back({{"pod", row.pod},
                      {"ip", row.ip},
                      {"container", row.container},
                      {"id", row.id},
                      {"pu", row.pu},
                      {"state", row.state},
                      {"reason", row.reason},
                      {"created_unix_ns", row.created_at_ns}});
      if (row.state == "exited") list.back().update({{"ended", row.ended}, {"exit_code", row.exit_code}});
    }
    context.output.Print(list);
    return 0;
  }
  auto now = std::chrono::system_clock::now().time_since_epoch();
  Table table({"POD", "IP", "CONTAINER", "PU", "STATE", "AGE", "ID"});
  for (const Row& row : rows) {
    auto age = std::chrono::duration_cast<std::chrono::milliseconds>(now - std::chrono::nanoseconds(row.created_at_ns));
    Style style = row.state == "running" ? Style::kGood : row.state == "exited" ? Style::kWarning : Style::kDim;
    table.Row({row.pod,
               row.ip,
               row.container,
               row.pu,
               {StateText(row), style},
               HumanAge(age),
               {row.id.substr(0, 12), Style::kDim}});
  }
  context.output.Print(table);
  return 0;
}

}  // namespace

void RegisterPs(CLI::App& app, Context& context) {
  CLI::App* sub = app.add_subcommand("ps", "List Pods, their containers and where each one runs");
  sub->callback([&context] { context.action = [&context] { return Ps(context); }; });
}

}  // namespace heterok8s::ctl
