#include "heteroctl/node/switch.h"

#include <absl/cleanup/cleanup.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "heteroctl/node/unit.h"

namespace heterok8s::ctl {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLook{500};
constexpr std::chrono::hours kLongestEnable{4};  // an hour of --ready-within is the most, there and back
constexpr const char* kGoing = "# `heteroctl node disable` is taking this away.\n";

std::string DropInPath(const std::string& unit) {
  return fmt::format("/etc/systemd/system/{}.d/90-heterok8s.conf", unit);
}

// What a drop-in said before an enable that renews it, until that enable is over; systemd reads *.conf only.
std::string Former(const std::string& path) { return path + ".former"; }

// As Kubernetes writes times, so that later is greater.
std::string Rfc3339(milliseconds since_1970) {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(since_1970.count() / 1000));
}

// Where containerd's shims tell of events, OOM kills among them: each where its containerd was when it began. So what
// was begun before a switch finds it by a link; containerd itself puts its own socket in the place of a link.
std::string Events(const std::string& socket) { return socket + ".ttrpc"; }

NodeOptions Named(NodeOptions options) {
  char name[256] = {};
  gethostname(name, sizeof(name) - 1);
  if (options.node_name.empty()) options.node_name = name;
  return options;
}

}  // namespace

NodeSwitch::NodeSwitch(NodeOptions options, Machine& machine, Say say)
    : options_(Named(std::move(options))), machine_(machine), say_(std::move(say)), net_(options_, machine) {}

std::vector<std::string> NodeSwitch::Paths() const {
  if (options_.via == Via::kKubelet) return {DropInPath(options_.kubelet_unit)};
  return {DropInPath(options_.runtime_unit), DropInPath(options_.router_unit)};
}

absl::Status NodeSwitch::NotTheOtherWay() {
  const bool by_kubelet = options_.via == Via::kKubelet;
  const std::string other = DropInPath(by_kubelet ? options_.runtime_unit : options_.kubelet_unit);
  if (!machine_.Read(other).ok()) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format("it is enabled the other way, by '{}': `disable --via {}`", other,
                                                   by_kubelet ? "socket" : "kubelet"));
}

absl::StatusOr<std::vector<NodeSwitch::File>> NodeSwitch::Wanted() {
  std::vector<File> files;
  auto add = [&](const std::string& unit, const std::string& arguments, std::vector<std::string> lines,
                 std::vector<std::string> service_lines = {}) -> absl::Status {
    HK_ASSIGN_OR_RETURN(std::string cat, machine_.Systemctl({"cat", unit}));
    absl::StatusOr<std::string> command = ExecStartOf(cat, DropInPath(unit));
    HK_RETURN_IF_ERROR(Annotate(command.status(), unit));
    files.push_back({DropInPath(unit), DropIn(*command, arguments, lines, service_lines)});
    return absl::OkStatus();
  };
  if (options_.via == Via::kKubelet) {
    HK_RETURN_IF_ERROR(add(options_.kubelet_unit,
                           fmt::format("--container-runtime-endpoint=unix://{}", options_.router_socket),
                           {"Wants=" + options_.router_unit, "After=" + options_.router_unit}));
  } else {
    HK_RETURN_IF_ERROR(add(options_.runtime_unit, "--address " + options_.moved_socket, {},
                           {fmt::format("ExecStartPost=/bin/ln -sfn {} {}", Events(options_.moved_socket),
                                        Events(options_.runtime_socket))}));
    HK_RETURN_IF_ERROR(add(options_.router_unit,
                           fmt::format("--listen {} --host-socket {}", options_.runtime_socket, options_.moved_socket),
                           {"After=" + options_.runtime_unit}));
  }
  return files;
}

bool NodeSwitch::AnyFile() {
  const std::vector<std::string> paths = Paths();
  return std::any_of(paths.begin(), paths.end(), [&](const std::string& path) { return machine_.Read(path).ok(); });
}

bool NodeSwitch::IsGoing() {
  const std::vector<std::string> paths = Paths();
  return std::any_of(paths.begin(), paths.end(), [&](const std::string& path) {
    absl::StatusOr<std::string> text = machine_.Read(path);
    return text.ok() && *text == kGoing;
  });
}

bool NodeSwitch::InPlace(const std::vector<File>& wanted) {
  for (const File& file : wanted) {
    absl::StatusOr<std::string> there = machine_.Read(file.path);
    if (!there.ok() || *there != file.text) return false;
  }
  return true;
}

absl::Status NodeSwitch::Restart() {
  HK_RETURN_IF_ERROR(machine_.Systemctl({"daemon-reload"}).status());
  if (options_.via == Via::kKubelet) return machine_.Systemctl({"restart", options_.kubelet_unit}).status();
  // The one that has the socket goes before the one that wants it.
  HK_RETURN_IF_ERROR(machine_.Systemctl({"stop", options_.router_unit}).status());
  HK_RETURN_IF_ERROR(machine_.Systemctl({"restart", options_.runtime_unit}).status());
  const absl::Status started = machine_.Systemctl({"start", options_.router_unit}).status();
  // Its unit tries again and again; who waits for the Node sees whether it comes. What is left to do is done anyhow.
  if (!started.ok()) say_(Message(started));
  return absl::OkStatus();
}

absl::Status NodeSwitch::Apply(const std::vector<File>& wanted) {
  for (const File& file : wanted) HK_RETURN_IF_ERROR(machine_.Write(file.path, file.text));
  return Restart();
}

absl::Status NodeSwitch::TakeAway() {
  // Files that say nothing stay until all else is done: whoever comes after one that was killed on the way finds them
  // and does it again.
  for (const std::string& path : Paths()) {
    if (machine_.Read(path).ok()) HK_RETURN_IF_ERROR(machine_.Write(path, kGoing));
  }
  HK_RETURN_IF_ERROR(Restart());
  if (options_.via == Via::kSocket) {
    HK_RETURN_IF_ERROR(
        machine_.Run({"ln", "-sfn", Events(options_.runtime_socket), Events(options_.moved_socket)}).status());
  }
  for (const std::string& path : Paths()) HK_RETURN_IF_ERROR(machine_.Remove(path));
  HK_RETURN_IF_ERROR(ForgetFormer());
  return machine_.Systemctl({"daemon-reload"}).status();
}

absl::Status NodeSwitch::KeepFormer() {
  for (const std::string& path : Paths()) {
    absl::StatusOr<std::string> text = machine_.Read(path);
    if (text.ok() && *text != kGoing) {
      HK_RETURN_IF_ERROR(machine_.Write(Former(path), *text));
    } else {
      HK_RETURN_IF_ERROR(machine_.Remove(Former(path)));
    }
  }
  return absl::OkStatus();
}

absl::Status NodeSwitch::ForgetFormer() {
  for (const std::string& path : Paths()) HK_RETURN_IF_ERROR(machine_.Remove(Former(path)));
  return absl::OkStatus();
}

absl::Status NodeSwitch::PutBack() {
  std::vector<File> former;
  for (const std::string& path : Paths()) {
    absl::StatusOr<std::string> text = machine_.Read(Former(path));
    if (text.ok()) former.push_back({path, *text});
  }
  if (former.size() < Paths().size()) return TakeAway();  // it was not enabled, or not whole
  HK_RETURN_IF_ERROR(Apply(former));
  return ForgetFormer();
}

absl::Status NodeSwitch::Rollback() {
  const milliseconds begun = machine_.Now();
  for (absl::Status alone = machine_.BeTheOnlyOne(); !alone.ok(); alone = machine_.BeTheOnlyOne()) {
    if (alone.code() != absl::StatusCode::kUnavailable || machine_.Now() - begun >= kLongestEnable) return alone;
    machine_.Sleep(kLook);
  }
  const milliseconds since = machine_.Clock();
  HK_RETURN_IF_ERROR(PutBack());
  return WaitReady(since, machine_.Now());
}

absl::Status NodeSwitch::Enable() {
  HK_RETURN_IF_ERROR(machine_.BeTheOnlyOne());
  HK_RETURN_IF_ERROR(NotTheOtherWay());
  HK_ASSIGN_OR_RETURN(std::vector<File> wanted, Wanted());
  const bool cut = net_.IsArmed();
  if (InPlace(wanted) && !cut) {
    say_("enabled already");
    return WaitReady(milliseconds(0), machine_.Now());
  }
  if (options_.via == Via::kKubelet) {
    HK_RETURN_IF_ERROR(Annotate(machine_.SplitPods(options_.router_socket).status(), "heterocri is not there yet"));
  }
  HK_RETURN_IF_ERROR(Annotate(Ready(milliseconds(0)), "the Node is not well before anything is changed"));

  if (cut) {
    say_("an earlier enable was cut off: it is done again");
    net_.Disarm();
  } else {
    HK_RETURN_IF_ERROR(KeepFormer());  // of one that was cut off it is there
  }
  absl::Status armed = net_.Arm();
  if (!armed.ok()) say_(fmt::format("no timer that would put the Node back without us: {}", Message(armed)));
  auto disarm = absl::MakeCleanup([this] {
    net_.Disarm();
    ForgetFormer().IgnoreError();  // in nobody's way: the next enable writes them anew
  });
  const milliseconds since = machine_.Clock(), begun = machine_.Now();
  say_(options_.via == Via::kKubelet ? "kubelet is restarted with heterocri as its runtime"
                                     : "containerd is restarted on another socket, heterocri takes its own");
  absl::Status done = Apply(wanted);
  if (done.ok()) done = WaitReady(since, begun);
  if (done.ok()) return done;

  say_(fmt::format("{}: the Node is put back as it was", Message(done)));
  const milliseconds back_since = machine_.Clock();
  absl::Status back = PutBack();
  if (back.ok()) back = WaitReady(back_since, machine_.Now());
  if (!back.ok()) {
    return absl::Status(done.code(), fmt::format("{}; put back, and that failed: {}", Message(done), Message(back)));
  }
  return absl::Status(done.code(), fmt::format("{}; the Node was put back as it was, and is Ready", Message(done)));
}

absl::Status NodeSwitch::Disable() {
  HK_RETURN_IF_ERROR(machine_.BeTheOnlyOne());
  if (!AnyFile()) {
    HK_RETURN_IF_ERROR(NotTheOtherWay());
    if (net_.IsArmed()) net_.Disarm();  // of an enable that was cut off before it changed anything
    say_("not enabled");
    return absl::OkStatus();
  }
  if (!options_.force) HK_RETURN_IF_ERROR(NoSplitPods());
  const milliseconds since = machine_.Clock();
  HK_RETURN_IF_ERROR(TakeAway());
  net_.Disarm();  // of an enable that was cut off: what it would do is done
  return WaitReady(since, machine_.Now());
}

absl::Status NodeSwitch::NoSplitPods() {
  const bool by_kubelet = options_.via == Via::kKubelet;
  absl::StatusOr<int> split = machine_.SplitPods(by_kubelet ? options_.router_socket : options_.runtime_socket);
  if (!split.ok()) {  // the host's runtime knows it too: split Pods have a sandbox there that says so
    absl::StatusOr<int> by_host = machine_.SplitPods(by_kubelet ? options_.runtime_socket : options_.moved_socket);
    if (!by_host.ok()) {
      return absl::FailedPreconditionError(
          fmt::format("nobody says whether split Pods run on this Node: {}; {} (--force)", Message(split.status()),
                      Message(by_host.status())));
    }
    split = by_host;
  }
  if (*split == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format(
      "{} split Pods run on this Node: kubelet would start their DPU containers again on the host (--force)", *split));
}

absl::Status NodeSwitch::WaitReady(milliseconds since, milliseconds begun) {
  std::optional<milliseconds> steady_since;
  while (true) {
    const absl::Status last = Ready(since);
    const milliseconds now = machine_.Now();
    if (!last.ok()) {
      steady_since.reset();
      if (now - begun >= options_.ready_within)
        return Annotate(last, fmt::format("not Ready within {} s", options_.ready_within.count()));
    } else {
      if (!steady_since) steady_since = now;
      if (now - *steady_since >= options_.steady_for) return last;
    }
    machine_.Sleep(kLook);
  }
}

absl::Status NodeSwitch::Ready(milliseconds since) {
  HK_RETURN_IF_ERROR(Annotate(machine_.HttpOk(options_.healthz_port, "/healthz"), "kubelet"));
  // A kubelet that is not restarted calls the Node Ready for half a minute and more after its runtime has gone.
  if (options_.via == Via::kSocket && since.count() > 0)
    HK_RETURN_IF_ERROR(machine_.SplitPods(options_.runtime_socket).status());
  return NodeCondition(since);
}

// What the cluster was told, and that it was told it after `since`: an old Ready says nothing. kubelet tells at its
// start; where it is not restarted, `since` cannot be asked for.
absl::Status NodeSwitch::NodeCondition(milliseconds since) {
  absl::StatusOr<std::string> text =
      machine_.Run({"kubectl", "--kubeconfig", options_.kubeconfig, "--request-timeout=5s", "get", "node",
                    options_.node_name, "-o", "json"});
  HK_RETURN_IF_ERROR(text.status());
  std::string state, message, heard;
  try {
    const nlohmann::json node = nlohmann::json::parse(*text);
    for (const nlohmann::json& condition : node.at("status").at("conditions")) {
      if (condition.at("type") != "Ready") continue;
      state = condition.at("status");
      message = condition.value("message", "");
      heard = condition.value("lastHeartbeatTime", "");
    }
  } catch (const nlohmann::json::exception& error) {
    return absl::InternalError(fmt::format("kubectl get node {}: {}", options_.node_name, error.what()));
  }
  if (state != "True") {
    return absl::UnavailableError(fmt::format("Node '{}' is not Ready: {}", options_.node_name,
                                              message.empty() ? "it has not said so" : message));
  }
  if (options_.via == Via::kKubelet && since.count() > 0 && heard < Rfc3339(since))
    return absl::UnavailableError(fmt::format("Node '{}' has not been heard of since", options_.node_name));
  return absl::OkStatus();
}

std::vector<Finding> NodeSwitch::Check() {
  std::vector<Finding> findings;
  auto add = [&](const std::string& what, const absl::Status& status, const std::string& good) {
    findings.push_back({what, status.ok() ? good : Message(status), status.ok()});
  };
  absl::StatusOr<std::vector<File>> wanted = Wanted();
  if (!wanted.ok()) {
    add("units", wanted.status(), "");
  } else if (InPlace(*wanted)) {
    findings.push_back({"heterocri", "enabled", true});
  } else {
    const char* state = !AnyFile()  ? "not enabled"
                        : IsGoing() ? "half disabled, by one that was cut off: disable again"
                                    : "enabled, but the unit has changed since: enable again";
    findings.push_back({"heterocri", state, false});
  }
  const std::string socket = options_.via == Via::kKubelet ? options_.router_socket : options_.runtime_socket;
  absl::StatusOr<int> split = machine_.SplitPods(socket);
  add(socket, split.status(), split.ok() ? fmt::format("answers, {} split Pods", *split) : "");
  add("kubelet", machine_.HttpOk(options_.healthz_port, "/healthz"), "healthy");
  add("Node " + options_.node_name, NodeCondition(milliseconds(0)), "Ready");
  return findings;
}

}  // namespace heterok8s::ctl
