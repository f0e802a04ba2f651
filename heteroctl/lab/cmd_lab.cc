#include "heteroctl/lab/cmd_lab.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <signal.h>
#include <unistd.h>

#include <memory>
#include <optional>

#include "heteroctl/lab/cluster.h"
#include "heteroctl/lab/control.h"
#include "heteroctl/lab/forward.h"
#include "heteroctl/lab/init.h"
#include "heteroctl/lab/kubernetes.h"
#include "heteroctl/lab/lab.h"
#include "heteroctl/lab/processes.h"
#include "heteroctl/lab/spawn.h"
#include "heteroctl/lab/topology.h"

namespace heterok8s::ctl {
namespace {

using lab::Layout;
using lab::Place;

constexpr const char* kDefaultName = "demo";

// The argument, else --lab or HETEROK8S_LAB, else "demo".
Layout Named(const Context& context, const std::string& name) {
  if (!name.empty()) return {name};
  if (!context.endpoint_flags.lab.empty()) return {context.endpoint_flags.lab};
  const char* variable = getenv("HETEROK8S_LAB");
  return {variable != nullptr && *variable != '\0' ? variable : kDefaultName};
}

absl::StatusOr<int> Up(Context& context, const lab::UpOptions& options) {
  const std::string& name = options.layout.name;
  Progress progress(context.output, fmt::format("lab '{}'", name));
  HK_ASSIGN_OR_RETURN(lab::UpResult result, lab::Up(options, [&](const std::string& what) {
                        progress.Update(fmt::format("lab '{}': {}", name, what));
                      }));
  if (context.output.json()) {
    nlohmann::json json = nlohmann::json::parse(lab::EnvJson(options.layout, options.config));
    json["took_ms"] = result.took.count();
    json["images"] = result.images;
    for (const lab::PartState& state : result.parts) {
      json["parts"].push_back(
          {{"pu", lab::Name(state.part.pu)}, {"daemon", state.part.daemon}, {"ready_after_ms", state.after.count()}});
    }
    context.output.Print(json);
    return 0;
  }
  const lab::Addresses at = lab::AddressesOf(1);
  context.output.Line(
      fmt::format("lab '{}' is up after {:.1f} s: client {} ── DPU {} ── host {}, {} images", name,
                  static_cast<double>(result.took.count()) / 1000, at.client, at.dpu, at.host, result.images),
      Style::kStrong);
  Table table({"PU", "DAEMON", "STATE", "READY AFTER", "LOG"});
  for (const lab::PartState& state : result.parts) {
    table.Row({lab::Name(state.part.pu),
               state.part.daemon,
               {"ready", Style::kGood},
               fmt::format("{} ms", state.after.count()),
               {options.layout.Log(state.part.pu, state.part.daemon), Style::kDim}});
  }
  context.output.Print(table);
  context.output.Line(fmt::format("use it: heteroctl --lab {} ps    enter it: heteroctl lab exec host -- bash", name),
                      Style::kDim);
  return 0;
}

absl::StatusOr<int> UpKubernetes(Context& context, const lab::UpOptions& options, int nodes) {
  const std::string& name = options.layout.name;
  Progress progress(context.output, fmt::format("lab '{}'", name));
  HK_ASSIGN_OR_RETURN(lab::ClusterResult result, lab::UpCluster(options, nodes, [&](const std::string& what) {
                        progress.Update(fmt::format("lab '{}': {}", name, what));
                      }));
  if (context.output.json()) {
    nlohmann::json json = nlohmann::json::parse(lab::EnvJson(options.layout, options.config));
    json["took_ms"] = result.took.count();
    for (int node = 1; node <= nodes; ++node) json["nodes"].push_back(options.layout.OfNode(node).name);
    context.output.Print(json);
    return 0;
  }
  context.output.Line(fmt::format("lab '{}' is up after {:.1f} s: a Kubernetes of {} heterogeneous Node{}", name,
                                  static_cast<double>(result.took.count()) / 1000, nodes, nodes == 1 ? "" : "s"),
                      Style::kStrong);
  Table table({"NODE", "PU", "DAEMON", "READY AFTER", "LOG"});
  for (int node = 1; node <= nodes; ++node) {
    const Layout layout = options.layout.OfNode(node);
    for (const lab::PartState& state : result.nodes[static_cast<size_t>(node - 1)].parts) {
      table.Row({layout.name,
                 lab::Name(state.part.pu),
                 state.part.daemon,
                 fmt::format("{} ms", state.after.count()),
                 {layout.Log(state.part.pu, state.part.daemon), Style::kDim}});
    }
  }
  context.output.Print(table);
  context.output.Line(fmt::format("use it: export KUBECONFIG={} PATH={}:$PATH; kubectl get nodes", result.kubeconfig,
                                  options.config.kubernetes),
                      Style::kDim);
  return 0;
}

void RegisterUp(CLI::App& parent, Context& context) {
  CLI::App* sub = parent.add_subcommand("up", "Make a lab: host, DPU and client on this machine");
  auto options = std::make_shared<lab::UpOptions>();
  auto name = std::make_shared<std::string>();
  auto seconds = std::make_shared<int>(0);
  auto kubernetes = std::make_shared<bool>(false);
  auto programs = std::make_shared<std::string>();
  auto nodes = std::make_shared<int>(2);
  auto only_containerd = std::make_shared<bool>(false);
  auto no_images = std::make_shared<bool>(false);
  sub->add_option("name,--name", *name, "Name of the lab (demo)");
  sub->add_option("--bin", options->binary_folder, "Folder of heterod, heterocri and heterok8s-cni");
  sub->add_option("--images", options->image_folder, "Folder of image archives (.build/images)");
  sub->add_option("--log-level", options->config.log_level, "Of the agents: debug, info, warn or error")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}));
  sub->add_option("--on-dpu-down", options->config.on_dpu_down, "Split Pods while the DPU is away: fail or host")
      ->check(CLI::IsMember({"fail", "host"}));
  sub->add_option("--ports", options->config.ports, "How port ownership works: auto, bpf or placeholder")
      ->check(CLI::IsMember({"auto", "bpf", "placeholder"}));
  sub->add_option("--timeout", *seconds, "Seconds until everything must be ready (30; with Kubernetes 180)")
      ->check(CLI::PositiveNumber);
  sub->add_flag("--kubernetes", *kubernetes, "With a real Kubernetes: deploy/kubernetes/build makes its programs");
  sub->add_option("--kubernetes-programs", *programs, "Folder of Kubernetes's programs (.build/kubernetes)");
  sub->add_option("--nodes", *nodes, "Nodes of that Kubernetes (2)")->check(CLI::Range(1, lab::kMaxNodes));
  sub->add_flag("--no-images", *no_images, "Import no images");
  sub->add_flag("--containerd-only", *only_containerd, "Without heterod and heterocri");
  sub->add_flag("--keep", options->keep_on_failure, "Keep what was made when the lab does not come up");
  sub->callback([=, &context] {
    context.action = [=, &context]() -> absl::StatusOr<int> {
      options->layout = Named(context, *name);
      options->deadline = std::chrono::seconds(*seconds > 0 ? *seconds : *kubernetes ? 180 : 30);
      options->config.agents = !*only_containerd;
      options->images = !*no_images;
      if (!*kubernetes) return Up(context, *options);
      HK_ASSIGN_OR_RETURN(options->config.kubernetes, lab::FindKubernetes(*programs));
      return UpKubernetes(context, *options, *nodes);
    };
  });
}

void RegisterDown(CLI::App& parent, Context& context) {
  CLI::App* sub = parent.add_subcommand("down", "Remove a lab and every trace of it");
  auto name = std::make_shared<std::string>();
  auto all = std::make_shared<bool>(false);
  sub->add_option("name,--name", *name, "Name of the lab (demo)");
  sub->add_flag("--all", *all, "Every lab on this machine");
  sub->callback([=, &context] {
    context.action = [=, &context]() -> absl::StatusOr<int> {
      std::vector<std::string> names = {Named(context, *name).name};
      if (*all) names = lab::ListLabs();
      absl::Status first;
      std::vector<std::string> removed;
      for (const std::string& each : names) {
        Progress progress(context.output, fmt::format("lab '{}': removing it", each));
        absl::Status status = lab::DownCluster({each});
        first.Update(status);
        if (status.ok()) removed.push_back(each);
      }
      HK_RETURN_IF_ERROR(first);
      if (context.output.json()) {
        context.output.Print(nlohmann::json{{"removed", removed}, {"left", nlohmann::json::array()}});
      } else {
        for (const std::string& each : removed)
          context.output.Line(fmt::format("lab '{}' is gone, nothing is left", each));
      }
      return 0;
    };
  });
}

// One row per daemon, or one row that says that a PU does not run.
void List(Context& context) {
  Table table({"LAB", "PU", "DAEMON", "PID", "STATE", "STARTS", "LAST END"});
  nlohmann::json json = nlohmann::json::array();
  for (const std::string& name : lab::ListLabs()) {
    const Layout layout{name};
    for (Place pu : lab::kPlaces) {
      if (pu == Place::kClient && access(layout.Control(pu).c_str(), F_OK) != 0) continue;  // only a namespace
      auto states = lab::Ask(layout.Control(pu), {}, std::chrono::seconds(3));
      if (!states.ok()) {
        table.Row({name, lab::Name(pu), "", "", {"not running", Style::kBad}, "", Message(states.status())});
        json.push_back({{"lab", name}, {"pu", lab::Name(pu)}, {"error", Message(states.status())}});
        continue;
      }
      auto init = lab::FindInit(layout, pu);
      for (const lab::DaemonState& state : *states) {
        const pid_t pid = init.ok() && state.pid > 0 ? lab::OuterPid(init->pid, state.pid) : -1;
        const std::string word = state.pid > 0 ? "running" : state.held ? "held" : "starting";
        table.Row({name,
                   lab::Name(pu),
                   state.name,
                   pid > 0 ? std::to_string(pid) : "-",
                   {word, state.pid > 0 ? Style::kGood : Style::kWarning},
                   std::to_string(state.starts),
                   state.last_end});
        json.push_back({{"lab", name},
                        {"pu", lab::Name(pu)},
                        {"daemon", state.name},
                        {"pid", pid},
                        {"pid_inside", state.pid},
                        {"state", word},
                        {"starts", state.starts},
                        {"last_end", state.last_end}});
      }
    }
  }
  if (context.output.json()) {
    context.output.Print(json);
  } else if (table.empty()) {
    context.output.Line("no lab is up; `heteroctl lab up` makes one");
  } else {
    context.output.Print(table);
  }
}

void RegisterList(CLI::App& parent, Context& context) {
  CLI::App* sub = parent.add_subcommand("list", "Labs on this machine and their daemons");
  sub->callback([&context] {
    context.action = [&context]() -> absl::StatusOr<int> {
      List(context);
      return 0;
    };
  });
}

void RegisterExec(CLI::App& parent, Context& context) {
  CLI::App* sub = parent.add_subcommand("exec", "Run a command in the host, the dpu or the client");
  sub->footer("-o json changes only errors: what the command prints passes through as it is.");
  auto name = std::make_shared<std::string>();
  auto place = std::make_shared<std::string>();
  auto command = std::make_shared<std::vector<std::string>>();
  sub->add_option("--name", *name, "Name of the lab (demo)");
  sub->add_option("place", *place, "host, dpu or client")->required()->check(CLI::IsMember({"host", "dpu", "client"}));
  sub->add_option("command", *command, "Command and arguments, after --")->required();
  sub->positionals_at_end();
  sub->callback([=, &context] {
    context.action = [=, &context]() -> absl::StatusOr<int> {
      HK_ASSIGN_OR_RETURN(Place where, lab::ParsePlace(*place));
      // CLI11 gives the "--" that ends the options to a positional that is already being filled.
      if (!command->empty() && command->front() == "--") command->erase(command->begin());
      if (command->empty()) return absl::InvalidArgumentError("lab exec: no command after --");
      return lab::Enter(Named(context, *name), where, *command);
    };
  });
}

// start, stop and kill: what tests do to daemons, through the init that would start them again.
void RegisterControl(CLI::App& parent, Context& context, const std::string& act, const std::string& help) {
  struct Flags {
    std::string name, daemon, pu = "host", signal;
    bool nine = false, hold = false;
    std::vector<std::string> env;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* sub = parent.add_subcommand(act, help);
  sub->add_option("daemon", flags->daemon, "containerd, heterod, heterocri, kubelet, …")->required();
  sub->add_option("--name", flags->name, "Name of the lab (demo)");
  sub->add_option("--pu", flags->pu, "host, dpu or, with Kubernetes, client (host)")
      ->check(CLI::IsMember({"host", "dpu", "client"}));
  if (act == "start") {
    sub->add_option("--env", flags->env, "KEY=value for this one start (repeatable)")->allow_extra_args(false);
  }
  if (act == "kill") {
    sub->add_flag("-9", flags->nine, "SIGKILL instead of SIGTERM");
    sub->add_option("-s,--signal", flags->signal, "Another signal, by number");
    sub->add_flag("--hold", flags->hold, "Do not let it start again");
  }
  sub->callback([=, &context] {
    context.action = [=, &context]() -> absl::StatusOr<int> {
      HK_ASSIGN_OR_RETURN(Place pu, lab::ParsePlace(flags->pu));
      lab::ControlRequest request{.act = act,
                                  .daemon = flags->daemon,
                                  .signal = flags->nine ? SIGKILL : SIGTERM,
                                  .hold = flags->hold,
                                  .env = flags->env};
      if (!flags->signal.empty()) request.signal = std::atoi(flags->signal.c_str());
      std::optional<Progress> progress(std::in_place, context.output,
                                       fmt::format("{} on the {}: {}", flags->daemon, flags->pu, act));
      HK_ASSIGN_OR_RETURN(auto states,
                          lab::Ask(Named(context, flags->name).Control(pu), request, std::chrono::seconds(15)));
      progress.reset();
      for (const lab::DaemonState& state : states) {
        if (state.name != flags->daemon) continue;
        const std::string word = state.pid > 0 ? "running" : state.held ? "held" : "starting";
        if (context.output.json()) {
          context.output.Print(nlohmann::json{{"daemon", state.name},
                                              {"state", word},
                                              {"pid_inside", state.pid},
                                              {"starts", state.starts},
                                              {"last_end", state.last_end}});
        } else {
          context.output.Line(fmt::format("{} on the {}: {}", state.name, flags->pu, word));
        }
      }
      return 0;
    };
  });
}

}  // namespace

void RegisterLab(CLI::App& app, Context& context) {
  CLI::App* sub = app.add_subcommand("lab", "One heterogeneous computer on this machine, and its removal");
  sub->require_subcommand(1);
  RegisterUp(*sub, context);
  RegisterDown(*sub, context);
  RegisterList(*sub, context);
  RegisterExec(*sub, context);
  RegisterControl(*sub, context, "start", "Start a daemon that was stopped");
  RegisterControl(*sub, context, "stop", "Stop a daemon and keep it stopped");
  RegisterControl(*sub, context, "kill", "Send a daemon a signal; it is started again unless held");

  CLI::App* forward = app.add_subcommand("lab-forward", "");
  forward->group("");  // not for people
  auto options = std::make_shared<lab::ForwardOptions>();
  forward->add_option("--listen-netns", options->listen_netns);
  forward->add_option("--port-file", options->port_file)->required();
  forward->add_option("to", options->to)->required();
  forward->callback([=, &context] {
    context.action = [=]() -> absl::StatusOr<int> {
      HK_RETURN_IF_ERROR(lab::RunForward(*options));
      return 0;
    };
  });

  CLI::App* init = app.add_subcommand("lab-init", "");
  init->group("");  // not for people
  auto spec = std::make_shared<std::string>();
  init->add_option("spec", *spec)->required();
  init->callback([=, &context] {
    context.action = [=]() -> absl::StatusOr<int> {
      HK_RETURN_IF_ERROR(lab::RunInit(*spec));
      return 0;
    };
  });
}

}  // namespace heterok8s::ctl
