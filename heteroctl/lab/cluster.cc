#include "heteroctl/lab/cluster.h"

#include <absl/cleanup/cleanup.h>
#include <fmt/format.h>

#include <sstream>
#include <thread>

#include "common/sys/file.h"
#include "common/sys/process.h"
#include "heteroctl/lab/kubernetes.h"

namespace heterok8s::lab {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kPause{200};

absl::StatusOr<std::string> Kubectl(const Layout& layout, const std::string& programs, std::vector<std::string> args,
                                    const std::string& stdin_text = "") {
  args.insert(args.begin(), {programs + "/kubectl", "--kubeconfig", layout.Kubeconfig(), "--request-timeout=5s"});
  sys::RunOptions run{.argv = args, .env = {}, .stdin_text = stdin_text, .deadline = std::chrono::seconds(20)};
  HK_ASSIGN_OR_RETURN(sys::RunResult result, sys::Run(run));
  if (result.exit_code != 0) return absl::UnavailableError(result.stderr_text);
  return result.stdout_text;
}

absl::Status WriteKubeconfig(const Layout& layout) {
  HK_ASSIGN_OR_RETURN(std::string port, sys::ReadFile(layout.PuRun(Place::kClient) + std::string(kPortFile).substr(4)));
  const std::string server = fmt::format("127.0.0.1:{}", std::atoi(port.c_str()));
  return sys::WriteFileAtomic(layout.Kubeconfig(), Kubeconfig(server, layout.KubernetesPki(), "admin"), 0600);
}

absl::Status NodesReady(const Layout& layout, const std::string& programs, int nodes) {
  HK_ASSIGN_OR_RETURN(
      std::string text,
      Kubectl(layout, programs,
              {"get", "nodes", "-o",
               R"(jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end})"}));
  int ready = 0;
  std::istringstream words(text);
  for (std::string word; words >> word;) ready += word.size() > 5 && word.substr(word.size() - 5) == "=True";
  if (ready >= nodes) return absl::OkStatus();
  return absl::UnavailableError(fmt::format("{} of {} Nodes Ready: {}", ready, nodes, text));
}

// Before these exist a Pod is refused, or waits for its token.
absl::Status PodsCanBeMade(const Layout& layout, const std::string& programs) {
  return Kubectl(layout, programs, {"get", "serviceaccount/default", "configmap/kube-root-ca.crt", "-o", "name"})
      .status();
}

absl::Status StartDns(const Layout& layout, const std::string& programs) {
  return Kubectl(layout, programs, {"apply", "-f", "-"}, DnsManifest()).status();
}

absl::Status Wait(const char* what, Clock::time_point deadline, const std::function<absl::Status()>& ask) {
  while (true) {
    absl::Status status = ask();
    if (status.ok()) return status;
    if (Clock::now() > deadline) return absl::DeadlineExceededError(fmt::format("{}: {}", what, Message(status)));
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace

absl::StatusOr<ClusterResult> UpCluster(const UpOptions& options, int nodes, const Report& report) {
  const auto start = Clock::now();
  const auto deadline = start + options.deadline;
  const Layout& first = options.layout;
  if (first.Node() != 1) return absl::InvalidArgumentError(fmt::format("'{}' is a Node of a lab", first.name));
  if (nodes < 1 || nodes > kMaxNodes) {
    return absl::InvalidArgumentError(fmt::format("a lab has 1 to {} Nodes, not {}", kMaxNodes, nodes));
  }
  ClusterResult result{.nodes = {}, .kubeconfig = first.Kubeconfig(), .took = {}};
  auto undo = absl::MakeCleanup([&] {
    if (result.nodes.empty() || options.keep_on_failure) return;  // the first Node undoes itself
    absl::Status removed = DownCluster(first);
    if (!removed.ok()) report(fmt::format("could not clean up: {}", Message(removed)));
  });
  for (int node = 1; node <= nodes; ++node) {
    UpOptions each = options;
    each.layout = first.OfNode(node);
    const std::string name = each.layout.name;
    HK_ASSIGN_OR_RETURN(UpResult up, Up(each, [&](const std::string& what) { report(name + ": " + what); }));
    result.nodes.push_back(std::move(up));
  }
  report("Nodes become Ready");
  const std::string& programs = options.config.kubernetes;
  HK_RETURN_IF_ERROR(Wait("way in", deadline, [&] { return WriteKubeconfig(first); }));
  HK_RETURN_IF_ERROR(Wait("Nodes", deadline, [&] { return NodesReady(first, programs, nodes); }));
  HK_RETURN_IF_ERROR(Wait("namespace 'default'", deadline, [&] { return PodsCanBeMade(first, programs); }));
  HK_RETURN_IF_ERROR(Wait("DNS", deadline, [&] { return StartDns(first, programs); }));
  std::move(undo).Cancel();
  result.took = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start);
  return result;
}

absl::Status DownCluster(const Layout& layout) {
  absl::Status first;
  for (const std::string& name : ListLabs()) {
    const Layout other{name};
    if (other.First() == layout.name && name != layout.name) first.Update(Down(other));
  }
  first.Update(Down(layout));
  return first;
}

}  // namespace heterok8s::lab
