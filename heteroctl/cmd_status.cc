#include "heteroctl/cmd_status.h"

#include <fmt/format.h>

#include <chrono>
#include <optional>

#include "heteroctl/admin_client.h"
#include "heteroctl/proto_json.h"

namespace heterok8s::ctl {
namespace {

using Reply = absl::StatusOr<v1::StatusReply>;

int64_t NowMs() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
}

Cell Ready(const Reply& reply) {
  if (!reply.ok()) return {Message(reply.status()), Style::kBad};
  if (reply->ready()) return {"ready", Style::kGood};
  return {"not ready: " + reply->not_ready_reason(), Style::kWarning};
}

Cell Peer(const Reply& reply) {
  if (!reply.ok()) return {"-", Style::kDim};
  const v1::PeerState& peer = reply->peer();
  const std::string age =
      peer.lease_age_ms() < 0 ? "never" : HumanAge(std::chrono::milliseconds(peer.lease_age_ms())) + " ago";
  if (!peer.lease_valid()) return {fmt::format("lease expired ({}): {}", age, peer.last_error()), Style::kBad};
  if (!peer.last_error().empty()) return {fmt::format("alive, {}", peer.last_error()), Style::kWarning};
  return {fmt::format("alive, heartbeat {}, ports {}", age, peer.connected() ? "in step" : "not connected"),
          peer.connected() ? Style::kGood : Style::kWarning};
}

// One line per figure, one column per PU that was asked.
Table Figures(const std::vector<std::pair<std::string, Reply>>& replies) {
  std::vector<std::string> headers = {""};
  for (const auto& [pu, reply] : replies) headers.push_back(pu == "host" ? "HOST" : "DPU");
  Table table(headers);
  const auto row = [&](const char* name, auto cell) {
    std::vector<Cell> cells = {{name, Style::kDim}};
    for (const auto& [pu, reply] : replies) cells.push_back(cell(reply));
    table.Row(std::move(cells));
  };
  const auto figure = [](auto get) {
    return [get](const Reply& reply) -> Cell { return reply.ok() ? Cell(get(*reply)) : Cell("-", Style::kDim); };
  };
  row("heterod", Ready);
  row("other PU", Peer);
  row("version", figure([](const v1::StatusReply& r) { return r.version(); }));
  row("instance", figure([](const v1::StatusReply& r) { return r.instance(); }));
  row("up for", figure([](const v1::StatusReply& r) {
        return HumanAge(std::chrono::milliseconds(NowMs() - r.started_unix_ms()));
      }));
  row("epoch", figure([](const v1::StatusReply& r) { return std::to_string(r.epoch()); }));
  row("attachments", figure([](const v1::StatusReply& r) { return std::to_string(r.attachments()); }));
  row("split Pods", figure([](const v1::StatusReply& r) { return std::to_string(r.split_pods()); }));
  row("addresses used", figure([](const v1::StatusReply& r) { return std::to_string(r.addresses_used()); }));
  row("tombstones", figure([](const v1::StatusReply& r) { return std::to_string(r.tombstones()); }));
  row("open files", figure([](const v1::StatusReply& r) { return std::to_string(r.open_files()); }));
  row("memory", figure([](const v1::StatusReply& r) { return HumanBytes(r.resident_bytes()); }));
  return table;
}

Table Mechanisms(const v1::StatusReply& reply) {
  Table table({"MECHANISM", "ACTIVE", "DETAIL"});
  for (const v1::Feature& feature : reply.features()) {
    const bool absent = feature.active() == "none" || feature.active() == "not connected";
    table.Row({feature.name(),
               {feature.active(), absent ? Style::kWarning : Style::kPlain},
               {feature.detail(), Style::kDim}});
  }
  return table;
}

absl::StatusOr<int> Status(Context& context) {
  HK_ASSIGN_OR_RETURN(Endpoints endpoints, FindEndpoints(context.endpoint_flags));
  std::vector<std::pair<std::string, Reply>> replies;
  {
    Progress progress(context.output, "asking the heterods");
    replies.emplace_back("host", AdminClient("heterod on the host", endpoints.host_admin).Status());
    if (!endpoints.dpu_admin.empty()) {
      replies.emplace_back("dpu", AdminClient("heterod on the DPU", endpoints.dpu_admin).Status());
    }
  }
  bool healthy = true, any = false;
  nlohmann::json json = nlohmann::json::object();
  for (const auto& [pu, reply] : replies) {
    any = any || reply.ok();
    healthy = healthy && reply.ok() && reply->ready() && reply->peer().lease_valid();
    json[pu] = reply.ok() ? ToJson(*reply) : nlohmann::json{{"error", Message(reply.status())}};
  }
  if (!any) return replies.front().second.status();
  if (context.output.json()) {
    context.output.Print(json);
    return healthy ? 0 : 1;
  }
  context.output.Print(Figures(replies));
  for (const auto& [pu, reply] : replies) {
    if (!reply.ok()) continue;
    context.output.Line(fmt::format("\non the {}", pu == "host" ? "host" : "DPU"), Style::kStrong);
    context.output.Print(Mechanisms(*reply));
  }
  return healthy ? 0 : 1;
}

}  // namespace

void RegisterStatus(CLI::App& app, Context& context) {
  CLI::App* sub =
      app.add_subcommand("status", "How the two heterods of this Node are; exit code 1 when one is not well");
  sub->callback([&context] { context.action = [&context] { return Status(context); }; });
}

}  // namespace heterok8s::ctl
