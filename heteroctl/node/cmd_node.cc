#include "heteroctl/node/cmd_node.h"

#include <fmt/format.h>

#include <filesystem>

#include "heteroctl/node/switch.h"

namespace heterok8s::ctl {
namespace {

struct Flags {
  NodeOptions options;
  std::string via = "kubelet", root;
  int ready_within = 60;
};

NodeOptions OptionsOf(const Flags& flags) {
  NodeOptions options = flags.options;
  options.via = flags.via == "socket" ? Via::kSocket : Via::kKubelet;
  // By socket kubelet does not tell when it was served by another: what it says must hold for longer than the 30 s
  // after which it gives a runtime up, and the 10 s in which it tells the cluster (kubelet's baseRuntimeSync and
  // nodeStatusUpdateFrequency).
  if (options.via == Via::kSocket) options.steady_for = std::chrono::seconds(45);
  options.ready_within = std::chrono::seconds(flags.ready_within);
  std::error_code error;
  if (flags.root.empty()) options.own_program = std::filesystem::read_symlink("/proc/self/exe", error).string();
  return options;
}

absl::StatusOr<int> Check(Context& context, NodeSwitch& node) {
  Table table({"WHAT", "STATE"});
  nlohmann::json json = nlohmann::json::array();
  bool good = true;
  for (const Finding& finding : node.Check()) {
    table.Row({finding.what, {finding.state, finding.good ? Style::kGood : Style::kBad}});
    json.push_back({{"what", finding.what}, {"state", finding.state}, {"good", finding.good}});
    good &= finding.good;
  }
  if (context.output.json()) {
    context.output.Print(json);
  } else {
    context.output.Print(table);
  }
  return good ? 0 : 1;
}

}  // namespace

void RegisterNode(CLI::App& app, Context& context) {
  CLI::App* node = app.add_subcommand("node", "Put heterocri between kubelet and its runtime on this machine");
  node->require_subcommand(1);
  auto flags = std::make_shared<Flags>();
  auto add = [&](const char* name, const char* help, auto run) {
    CLI::App* sub = node->add_subcommand(name, help);
    sub->add_option("--via", flags->via, "kubelet: another endpoint (default); socket: heterocri takes containerd's")
        ->check(CLI::IsMember({"kubelet", "socket"}));
    sub->add_option("--root", flags->root, "Folder that stands for / (/)");
    sub->add_option("--node-name", flags->options.node_name, "Of the Node (this machine's name)");
    sub->add_option("--kubeconfig", flags->options.kubeconfig, "To ask the cluster for the Node (kubelet's own)");
    sub->add_option("--kubelet-unit", flags->options.kubelet_unit, "kubelet.service");
    sub->add_option("--runtime-unit", flags->options.runtime_unit, "containerd.service");
    sub->add_option("--runtime-socket", flags->options.runtime_socket, "Where containerd listens for kubelet");
    sub->add_option("--healthz-port", flags->options.healthz_port, "kubelet's (10248)");
    sub->callback([=, &context] {
      context.action = [=, &context]() -> absl::StatusOr<int> {
        SystemdMachine machine(flags->root);
        NodeSwitch of_node(OptionsOf(*flags), machine, [&context](const std::string& text) {
          if (!context.output.json()) fmt::print(stderr, "{}\n", text);
        });
        return run(context, of_node);
      };
    });
    return sub;
  };
  auto done = [](const Context& context, const absl::Status& status, bool enabled) -> absl::StatusOr<int> {
    HK_RETURN_IF_ERROR(status);
    if (context.output.json()) context.output.Print(nlohmann::json{{"enabled", enabled}});
    return 0;
  };
  CLI::App* enable =
      add("enable", "kubelet runs its Pods through heterocri; put back when the Node is not Ready in time",
          [done](Context& c, NodeSwitch& of_node) { return done(c, of_node.Enable(), true); });
  CLI::App* disable = add("disable", "kubelet has its runtime for itself again",
                          [done](Context& c, NodeSwitch& of_node) { return done(c, of_node.Disable(), false); });
  CLI::App* rollback =
      add("rollback", "Undo an enable that was cut off: what systemd's timer does, should enable not come to its end",
          [done](Context& c, NodeSwitch& of_node) { return done(c, of_node.Rollback(), false); });
  for (CLI::App* sub : {enable, disable, rollback}) {
    sub->add_option("--ready-within", flags->ready_within, "Seconds (60)")->check(CLI::Range(1, 3600));
  }
  disable->add_flag("--force", flags->options.force,
                    "Although split Pods run: their DPU containers start again on the host");
  add("check", "Whether kubelet runs through heterocri, and how the Node is", Check);
}

}  // namespace heterok8s::ctl
