// Enabling and disabling over real files below a folder, with systemd and kubelet as scripts of a test.
#include "heteroctl/node/switch.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <set>

#include "common/testing/matchers.h"
#include "heteroctl/node/unit.h"

namespace heterok8s::ctl {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using testing::HasCode;

constexpr const char* kKubeletDropIn = "/etc/systemd/system/kubelet.service.d/90-heterok8s.conf";
constexpr const char* kRuntimeDropIn = "/etc/systemd/system/containerd.service.d/90-heterok8s.conf";
constexpr const char* kRouterDropIn = "/etc/systemd/system/heterocri.service.d/90-heterok8s.conf";
constexpr const char* kKubeadm =
    "# /lib/systemd/system/kubelet.service\n[Unit]\nDescription=kubelet\n[Service]\nExecStart=/usr/bin/kubelet\n"
    "Restart=always\n# /etc/systemd/system/kubelet.service.d/10-kubeadm.conf\n[Service]\nExecStart=\n"
    "ExecStart=/usr/bin/kubelet $KUBELET_CONFIG_ARGS \\\n  $KUBELET_EXTRA_ARGS\n";

class Folder {
 public:
  Folder() : path(fmt::format("/tmp/hk-node-{}-{}", getpid(), ++serial)) { fs::create_directories(path); }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  const std::string path;

 private:
  static inline std::atomic<int> serial{0};
};

// Real files; units that `systemctl cat` shows with their drop-ins; a kubelet that is Ready some seconds after its
// start, or never when it is started with what it does not like. Its clock runs only in Sleep.
class ScriptedMachine final : public Machine {
 public:
  absl::StatusOr<std::string> Read(const std::string& path) override { return files_.Read(path); }
  absl::Status Write(const std::string& path, const std::string& text) override { return files_.Write(path, text); }
  absl::Status Remove(const std::string& path) override { return files_.Remove(path); }
  absl::StatusOr<std::string> Systemctl(const std::vector<std::string>& arguments) override {
    log.push_back(fmt::format("{}", fmt::join(arguments, " ")));
    if (arguments[0] == fails_at) return absl::InternalError("as the script says");
    if (arguments[0] == "cat") return Cat(arguments[1]);
    if (arguments[0] == "is-active" && !armed) return absl::InternalError("inactive");
    if (arguments[0] == "stop" && arguments[1] == "heterok8s-node-rollback.timer") armed = false;
    if (arguments[0] == "restart" && arguments[1] != "containerd.service") started_ = now_;
    return "";
  }
  absl::StatusOr<std::string> Run(const std::vector<std::string>& argv) override {
    if (argv[0] == "systemd-run") {
      log.push_back("net");
      if (armed) return absl::InternalError("the unit is there already");
      armed = true;
      net = fmt::format("{}", fmt::join(argv, " "));
      return "";
    }
    if (argv[0] == "ln") {
      log.push_back(fmt::format("{}", fmt::join(argv, " ")));
      return "";
    }
    const bool ready = Likes() && now_ - started_ >= ready_after;
    // A kubelet that hangs says nothing new: the cluster still has its last word for a while.
    milliseconds heard = ready ? now_ : std::min(now_, started_ - milliseconds(1000));
    return fmt::format(
        R"({{"status": {{"conditions": [{{"type": "MemoryPressure", "status": "False"}},
            {{"type": "Ready", "status": "{}", "message": "as the script says", "lastHeartbeatTime": "{}"}}]}}}})",
        ready || !Likes() ? "True" : "False", Time(heard));
  }
  absl::Status HttpOk(int, const std::string&) override {
    return healthy ? absl::OkStatus() : absl::UnavailableError("connection refused");
  }
  absl::StatusOr<int> SplitPods(const std::string& socket) override {
    const bool listens = sockets.contains(socket) && (heterocri_comes || !Read(kRouterDropIn).ok()) && !Disliked();
    if (!listens) return absl::UnavailableError(fmt::format("nobody listens on '{}'", socket));
    return split_pods;
  }
  void Sleep(milliseconds time) override { now_ += time; }
  milliseconds Now() override { return now_; }

  bool Did(const std::string& what) const { return std::find(log.begin(), log.end(), what) != log.end(); }

  std::map<std::string, std::string> units{
      {"kubelet.service", kKubeadm},
      {"containerd.service", "# /lib/x\n[Service]\nExecStart=/usr/bin/containerd\n"},
      {"heterocri.service", "# /lib/y\n[Service]\nExecStart=/usr/bin/heterocri\n"}};
  std::set<std::string> sockets{"/run/heterok8s/cri.sock", "/run/containerd/containerd.sock"};
  bool healthy = true;
  bool likes_heterocri = true;
  std::string dislikes;         // in a drop-in
  bool heterocri_comes = true;  // by socket; if not, kubelet does not notice
  milliseconds ready_after{5000};
  int split_pods = 0;
  std::vector<std::string> log;
  std::string net;       // what systemd would run
  bool armed = false;    // and will
  std::string fails_at;  // a verb of systemctl's
  Folder folder;

 private:
  bool Disliked() {
    for (const char* path : {kKubeletDropIn, kRuntimeDropIn}) {
      auto text = Read(path);
      if (!dislikes.empty() && text.ok() && text->find(dislikes) != std::string::npos) return true;
    }
    return false;
  }
  bool Likes() {
    if (Disliked()) return false;
    return likes_heterocri || (!Read(kKubeletDropIn).ok() && !Read(kRuntimeDropIn).ok());
  }
  std::string Cat(const std::string& unit) {
    std::string path = fmt::format("/etc/systemd/system/{}.d/90-heterok8s.conf", unit);
    auto drop_in = Read(path);
    return units[unit] + (drop_in.ok() ? fmt::format("\n# {}\n{}", path, *drop_in) : "");
  }
  static std::string Time(milliseconds at) {
    time_t seconds = at.count() / 1000;
    tm parts = {};
    gmtime_r(&seconds, &parts);
    char text[32];
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
    return text;
  }

  SystemdMachine files_{folder.path};
  milliseconds now_{1764000000000};
  milliseconds started_{now_ - milliseconds(3600000)};
};

NodeOptions Options(Via via) {
  NodeOptions options;
  options.via = via;
  options.node_name = "n1";
  options.own_program = "/usr/bin/heteroctl";
  return options;
}

struct Node {
  explicit Node(Via via = Via::kKubelet, bool force = false) : options(Options(via)) { options.force = force; }
  absl::Status Enable() {
    return NodeSwitch(options, machine, [](const std::string&) {}).Enable();
  }
  absl::Status Rollback() {
    return NodeSwitch(options, machine, [](const std::string&) {}).Rollback();
  }
  absl::Status Disable() {
    return NodeSwitch(options, machine, [](const std::string&) {}).Disable();
  }
  std::vector<Finding> Check() {
    return NodeSwitch(options, machine, [](const std::string&) {}).Check();
  }
  bool AllGood() {
    std::vector<Finding> findings = Check();
    return std::all_of(findings.begin(), findings.end(), [](const Finding& finding) { return finding.good; });
  }
  NodeOptions options;
  ScriptedMachine machine;
};

TEST_CASE("the command of a unit is that of its last file, continued lines and all") {
  CHECK(*ExecStartOf(kKubeadm, "") == "/usr/bin/kubelet $KUBELET_CONFIG_ARGS $KUBELET_EXTRA_ARGS");
  CHECK(*ExecStartOf("[Service]\nExecStartPre=/bin/a\nExecStart = /bin/b -x\n", "") == "/bin/b -x");
  CHECK(*ExecStartOf("# /a\n[Service]\nExecStart=/b\n# /c\n[Service]\nExecStart=\nExecStart=/d\n", "/c") == "/b");
  CHECK_THAT(ExecStartOf("[Install]\nExecStart=/b\n", "").status(), HasCode(absl::StatusCode::kNotFound));
  CHECK_THAT(ExecStartOf("[Service]\nExecStart=/b\nExecStart=/c\n", "").status(),
             HasCode(absl::StatusCode::kFailedPrecondition));
}

TEST_CASE("enable points kubelet at heterocri with its own arguments kept, and disable leaves nothing") {
  Node node;
  REQUIRE_OK(node.Enable());

  std::string text = *node.machine.Read(kKubeletDropIn);
  CHECK(text.find("ExecStart=\nExecStart=/usr/bin/kubelet $KUBELET_CONFIG_ARGS $KUBELET_EXTRA_ARGS "
                  "--container-runtime-endpoint=unix:///run/heterok8s/cri.sock\n") != std::string::npos);
  CHECK(text.find("After=heterocri.service\n") != std::string::npos);
  CHECK(node.machine.Did("net"));
  CHECK(node.machine.Did("stop heterok8s-node-rollback.timer"));
  CHECK(!node.machine.Did("restart containerd.service"));
  CHECK(node.AllGood());

  node.machine.log.clear();
  REQUIRE_OK(node.Enable());  // once more changes nothing
  CHECK(!node.machine.Did("restart kubelet.service"));

  REQUIRE_OK(node.Disable());
  CHECK(!node.machine.Read(kKubeletDropIn).ok());
  CHECK(node.machine.Did("restart kubelet.service"));
  CHECK(!node.AllGood());
  node.machine.log.clear();
  REQUIRE_OK(node.Disable());
  CHECK(node.machine.log.empty());
}

TEST_CASE("the net of systemd does for this Node what we would do, also when it has names of its own") {
  Node node;
  node.options.kubelet_unit = "k3s.service";
  node.options.kubeconfig = "/etc/k3s/kubelet.kubeconfig";
  node.options.healthz_port = 10300;
  node.machine.units["k3s.service"] = kKubeadm;
  REQUIRE_OK(node.Enable());

  CHECK(node.machine.net.find("/usr/bin/heteroctl node rollback --via kubelet --kubelet-unit k3s.service "
                              "--runtime-unit containerd.service --runtime-socket /run/containerd/containerd.sock "
                              "--node-name n1 --kubeconfig /etc/k3s/kubelet.kubeconfig --healthz-port 10300") !=
        std::string::npos);
}

TEST_CASE("by socket: containerd moves, heterocri takes its place, kubelet is not touched") {
  Node node(Via::kSocket);
  REQUIRE_OK(node.Enable());

  CHECK(node.machine.Read(kRuntimeDropIn)->find("--address /run/containerd/containerd-host.sock") != std::string::npos);
  // Shims that began before tell their events where they always did, and those that began meanwhile afterwards.
  CHECK(node.machine.Read(kRuntimeDropIn)
            ->find("ExecStartPost=/bin/ln -sfn /run/containerd/containerd-host.sock.ttrpc "
                   "/run/containerd/containerd.sock.ttrpc\n") != std::string::npos);
  CHECK(node.machine.Read(kRouterDropIn)
            ->find("--listen /run/containerd/containerd.sock --host-socket /run/containerd/containerd-host.sock") !=
        std::string::npos);
  auto at = [&](const std::string& what) {
    return std::find(node.machine.log.begin(), node.machine.log.end(), what) - node.machine.log.begin();
  };
  CHECK(at("stop heterocri.service") < at("restart containerd.service"));
  CHECK(at("restart containerd.service") < at("start heterocri.service"));
  CHECK(!node.machine.Did("restart kubelet.service"));
  REQUIRE_OK(node.Disable());
  CHECK(!node.machine.Read(kRuntimeDropIn).ok());
  CHECK(!node.machine.Read(kRouterDropIn).ok());
  CHECK(at("restart containerd.service") <
        at("ln -sfn /run/containerd/containerd.sock.ttrpc /run/containerd/containerd-host.sock.ttrpc"));
}

TEST_CASE("a Node that is not Ready in time is put back as it was, and the error says so") {
  Node node;
  SECTION("because kubelet does not come to life with heterocri, though its last word was Ready") {
    node.machine.likes_heterocri = false;
  }
  SECTION("because it takes too long") { node.machine.ready_after = std::chrono::seconds(61); }
  absl::Status status = node.Enable();

  REQUIRE(!status.ok());
  CHECK(!node.machine.Read(kKubeletDropIn).ok());
  CHECK(std::count(node.machine.log.begin(), node.machine.log.end(), "restart kubelet.service") == 2);
  CHECK(node.machine.Did("stop heterok8s-node-rollback.timer"));
  if (!node.machine.likes_heterocri) {
    CHECK(ToString(status).find("put back as it was, and is Ready") != std::string::npos);
  }
}

TEST_CASE("a renewal that does not become Ready puts the former drop-ins back: the Node stays enabled") {
  for (Via via : {Via::kKubelet, Via::kSocket}) {
    Node node(via);
    REQUIRE_OK(node.Enable());
    const char* changed = via == Via::kKubelet ? kKubeletDropIn : kRuntimeDropIn;
    const std::string former = *node.machine.Read(changed);
    node.machine.units[via == Via::kKubelet ? "kubelet.service" : "containerd.service"] =
        "# /lib/x\n[Service]\nExecStart=/usr/bin/new --argument\n";
    node.machine.dislikes = "--argument";

    const absl::Status status = node.Enable();

    REQUIRE(!status.ok());
    CHECK(ToString(status).find("put back as it was, and is Ready") != std::string::npos);
    CHECK(*node.machine.Read(changed) == former);
    CHECK(!node.machine.Read(std::string(changed) + ".former").ok());
  }
}

TEST_CASE(
    "a renewal that is killed is undone by systemd's timer: the Node stays enabled; without a former one it is not") {
  Node node;
  REQUIRE_OK(node.Enable());
  const std::string former = *node.machine.Read(kKubeletDropIn);
  node.machine.units["kubelet.service"] = "# /lib/x\n[Service]\nExecStart=/usr/bin/new --argument\n";
  node.machine.fails_at = "restart";  // and so does the putting back: as if killed there
  REQUIRE(!node.Enable().ok());
  REQUIRE_OK(node.machine.Write(std::string(kKubeletDropIn) + ".former", former));
  REQUIRE_OK(node.machine.Write(kKubeletDropIn, "[Service]\nExecStart=/usr/bin/new --argument\n"));
  node.machine.fails_at.clear();

  REQUIRE_OK(node.Rollback());
  CHECK(*node.machine.Read(kKubeletDropIn) == former);
  CHECK(!node.machine.Read(std::string(kKubeletDropIn) + ".former").ok());

  REQUIRE_OK(node.Rollback());
  CHECK(!node.machine.Read(kKubeletDropIn).ok());
}

TEST_CASE("what is enabled one way is neither enabled nor disabled the other way") {
  for (Via via : {Via::kKubelet, Via::kSocket}) {
    Node node(via);
    REQUIRE_OK(node.Enable());
    node.options.via = via == Via::kKubelet ? Via::kSocket : Via::kKubelet;
    CHECK_THAT(node.Disable(), HasCode(absl::StatusCode::kFailedPrecondition));
    CHECK_THAT(node.Enable(), HasCode(absl::StatusCode::kFailedPrecondition));
    node.options.via = via;
    CHECK_OK(node.Disable());
  }
}

TEST_CASE("an enable that was killed with its files in place is done again, and nothing puts the Node back later") {
  for (Via via : {Via::kKubelet, Via::kSocket}) {
    Node node(via);
    REQUIRE_OK(node.Enable());
    node.machine.armed = true;  // as it is until the end
    node.machine.log.clear();

    REQUIRE_OK(node.Enable());
    CHECK(node.machine.Did(via == Via::kKubelet ? "restart kubelet.service" : "restart containerd.service"));
    CHECK(node.machine.Did("net"));
    CHECK_FALSE(node.machine.armed);
  }
}

TEST_CASE("a disable that was killed before the units ran without its files is finished by the next one") {
  Node node;
  REQUIRE_OK(node.Enable());
  node.machine.fails_at = "restart";
  REQUIRE(!node.Disable().ok());
  REQUIRE_OK(node.machine.Read(kKubeletDropIn));
  CHECK(node.machine.Read(kKubeletDropIn)->find("ExecStart") == std::string::npos);
  CHECK(!node.AllGood());

  node.machine.fails_at.clear();
  node.machine.log.clear();
  REQUIRE_OK(node.Disable());
  CHECK(node.machine.Did("restart kubelet.service"));
  CHECK(!node.machine.Read(kKubeletDropIn).ok());
}

TEST_CASE("a disable after an enable that was killed disarms the net") {
  Node node;
  REQUIRE_OK(node.Enable());
  node.machine.armed = true;

  REQUIRE_OK(node.Disable());
  CHECK_FALSE(node.machine.armed);
}

TEST_CASE("by socket: a Node that is called Ready while nobody answers on its runtime's socket is put back") {
  Node node(Via::kSocket);
  node.machine.heterocri_comes = false;

  const absl::Status status = node.Enable();

  REQUIRE(!status.ok());
  CHECK(ToString(status).find("nobody listens on '/run/containerd/containerd.sock'") != std::string::npos);
  CHECK(ToString(status).find("put back as it was, and is Ready") != std::string::npos);
  CHECK(!node.machine.Read(kRuntimeDropIn).ok());
  CHECK(!node.machine.Read(kRouterDropIn).ok());
}

TEST_CASE("nothing is touched when heterocri is not there, or the Node is not well before") {
  Node node;
  SECTION("no heterocri") { node.machine.sockets.erase("/run/heterok8s/cri.sock"); }
  SECTION("kubelet is down") { node.machine.healthy = false; }
  SECTION("a unit that is not understood") { node.machine.units["kubelet.service"] = "[Service]\n"; }

  CHECK(!node.Enable().ok());
  CHECK(!node.machine.Read(kKubeletDropIn).ok());
  CHECK(!node.machine.Did("restart kubelet.service"));
}

TEST_CASE("disable asks before split Pods lose their runtime") {
  Node node;
  REQUIRE_OK(node.Enable());
  node.machine.split_pods = 3;

  absl::Status refused = node.Disable();
  CHECK_THAT(refused, HasCode(absl::StatusCode::kFailedPrecondition));
  CHECK(ToString(refused).find("3 split Pods") != std::string::npos);
  CHECK(node.machine.Read(kKubeletDropIn).ok());
  node.options.force = true;
  CHECK_OK(node.Disable());
}

TEST_CASE("disable asks containerd itself when heterocri does not answer, and refuses when nobody does") {
  for (Via via : {Via::kKubelet, Via::kSocket}) {
    Node node(via);
    REQUIRE_OK(node.Enable());
    node.machine.sockets = {via == Via::kKubelet ? "/run/containerd/containerd.sock"
                                                 : "/run/containerd/containerd-host.sock"};
    node.machine.split_pods = 1;
    absl::Status refused = node.Disable();
    CHECK_THAT(refused, HasCode(absl::StatusCode::kFailedPrecondition));
    CHECK(ToString(refused).find("1 split Pods") != std::string::npos);

    node.machine.sockets.clear();
    refused = node.Disable();
    CHECK_THAT(refused, HasCode(absl::StatusCode::kFailedPrecondition));
    CHECK(ToString(refused).find("nobody says whether split Pods run") != std::string::npos);
    CHECK(node.machine.Read(via == Via::kKubelet ? kKubeletDropIn : kRuntimeDropIn).ok());

    node.machine.sockets = {"/run/containerd/containerd.sock"};  // with --force the Node needs one that answers
    node.options.force = true;
    CHECK_OK(node.Disable());
  }
}

TEST_CASE("check tells when the unit has changed under the drop-in") {
  Node node;
  REQUIRE_OK(node.Enable());
  node.machine.units["kubelet.service"] =
      "# /lib/systemd/system/kubelet.service\n[Service]\nExecStart=/usr/bin/kubelet --new\n";
  CHECK(!node.AllGood());
  REQUIRE_OK(node.Enable());
  CHECK(node.machine.Read(kKubeletDropIn)->find("--new --container-runtime-endpoint") != std::string::npos);
  CHECK(node.AllGood());
}

}  // namespace
}  // namespace heterok8s::ctl
