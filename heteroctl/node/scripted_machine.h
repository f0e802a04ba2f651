// A machine for the tests of NodeSwitch: real files below a folder, with systemd and kubelet as scripts of a test.
//
// Threading: one thread. Ownership: the folder goes with the machine. Errors: those that the script asks for.
//
//   Node node(Via::kSocket);
//   node.machine.fails_at = "restart";
//   REQUIRE(!node.Enable().ok());
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

#include "heteroctl/node/switch.h"

namespace heterok8s::ctl {

inline constexpr const char* kKubeletDropIn = "/etc/systemd/system/kubelet.service.d/90-heterok8s.conf";
inline constexpr const char* kRuntimeDropIn = "/etc/systemd/system/containerd.service.d/90-heterok8s.conf";
inline constexpr const char* kRouterDropIn = "/etc/systemd/system/heterocri.service.d/90-heterok8s.conf";
inline constexpr const char* kKubeadm =
    "# /lib/systemd/system/kubelet.service\n[Unit]\nDescription=kubelet\n[Service]\nExecStart=/usr/bin/kubelet\n"
    "Restart=always\n# /etc/systemd/system/kubelet.service.d/10-kubeadm.conf\n[Service]\nExecStart=\n"
    "ExecStart=/usr/bin/kubelet $KUBELET_CONFIG_ARGS \\\n  $KUBELET_EXTRA_ARGS\n";

class Folder {
 public:
  Folder() : path(fmt::format("/tmp/hk-node-{}-{}", getpid(), ++serial)) { std::filesystem::create_directories(path); }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
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
    if (arguments[0] == "restart") (arguments[1] == "containerd.service" ? moved_ : started_) = now_;
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
      if (argv[0] == fails_at) return absl::InternalError("as the script says");
      log.push_back(fmt::format("{}", fmt::join(argv, " ")));
      return "";
    }
    const bool ready = Likes() && now_ - started_ >= ready_after && !GaveUp();
    // A kubelet that hangs says nothing new: the cluster still has its last word for a while.
    std::chrono::milliseconds heard = ready ? Clock() : std::min(now_, started_ - std::chrono::milliseconds(1000));
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
  void Sleep(std::chrono::milliseconds time) override {
    now_ += time;
    set_ = clock_jumps;
  }
  std::chrono::milliseconds Now() override { return now_ - std::chrono::hours(1000); }
  std::chrono::milliseconds Clock() override { return now_ + set_; }
  absl::Status BeTheOnlyOne() override {
    if (others_until && now_ >= *others_until) others_until.reset();
    return others_until ? absl::UnavailableError("another is at work") : absl::OkStatus();
  }

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
  std::chrono::milliseconds ready_after{5000};
  int split_pods = 0;
  std::vector<std::string> log;
  std::string net;                                          // what systemd would run
  bool armed = false;                                       // and will
  std::string fails_at;                                     // a verb of systemctl's, or a program
  std::optional<std::chrono::milliseconds> gives_up_after;  // by socket: kubelet, of a runtime that does not serve it
  std::chrono::milliseconds clock_jumps{0};                 // forward, in the first Sleep
  std::optional<std::chrono::milliseconds> others_until;    // another `heteroctl node` is at work
  Folder folder;

 private:
  bool Disliked() {
    for (const char* path : {kKubeletDropIn, kRuntimeDropIn}) {
      auto text = Read(path);
      if (!dislikes.empty() && text.ok() && text->find(dislikes) != std::string::npos) return true;
    }
    return false;
  }
  bool GaveUp() { return gives_up_after && Read(kRuntimeDropIn).ok() && now_ - moved_ >= *gives_up_after; }
  bool Likes() {
    if (Disliked()) return false;
    return likes_heterocri || (!Read(kKubeletDropIn).ok() && !Read(kRuntimeDropIn).ok());
  }
  std::string Cat(const std::string& unit) {
    std::string path = fmt::format("/etc/systemd/system/{}.d/90-heterok8s.conf", unit);
    auto drop_in = Read(path);
    return units[unit] + (drop_in.ok() ? fmt::format("\n# {}\n{}", path, *drop_in) : "");
  }
  static std::string Time(std::chrono::milliseconds at) {
    time_t seconds = at.count() / 1000;
    tm parts = {};
    gmtime_r(&seconds, &parts);
    char text[32];
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
    return text;
  }

  SystemdMachine files_{folder.path};
  std::chrono::milliseconds now_{1764000000000};
  std::chrono::milliseconds started_{now_ - std::chrono::milliseconds(3600000)}, moved_{0}, set_{0};
};

inline NodeOptions Options(Via via) {
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

}  // namespace heterok8s::ctl
