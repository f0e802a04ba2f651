// Two heterods, each in a network namespace of its own, driven through the CNI binary.
//
//        namespace H                          namespace D
//   heterod --role=host  ── node0 ─ veth ─ node0 ──  heterod --role=dpu
//   192.0.2.1                                        192.0.2.2
//   pod-h (eth0 = xpu0) ─────────── link ─────────── pod-d (xpu0, eth0)
#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "common/net/ip.h"
#include "common/sys/file.h"
#include "common/sys/netns.h"
#include "common/sys/process.h"
#include "common/sys/unique_fd.h"
#include "common/testing/matchers.h"
#include "common/tls/pki.h"

namespace heterok8s::agent {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

bool Eventually(const std::function<bool()>& condition) {
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > give_up) return false;
    usleep(10000);
  }
  return true;
}

void Must(const std::string& command) {
  absl::StatusOr<sys::RunResult> result = sys::Run({.argv = {"sh", "-ec", command}});
  REQUIRE_OK(result);
  INFO(command << "\n" << result->stderr_text);
  REQUIRE(result->exit_code == 0);
}

class Node {
 public:
  // Not the constructor: what fails in there would leave everything behind.
  void Up() {
    REQUIRE_OK(tls::InitPki({.dir = dir_ + "/pki", .node = "demo"}));
    Must(fmt::format(R"(
      ip netns add {0}-h; ip netns add {0}-d
      ip link add {0}n netns {0}-h type veth peer name {0}m netns {0}-d
      ip -n {0}-h link set {0}n name node0 up; ip -n {0}-d link set {0}m name node0 up
      ip -n {0}-h link set lo up; ip -n {0}-d link set lo up
      ip -n {0}-h addr add 192.0.2.1/24 dev node0; ip -n {0}-d addr add 192.0.2.2/24 dev node0
      ip -n {0}-h route add default via 192.0.2.2
      ip -n {0}-d route add 10.88.0.0/16 via 192.0.2.1
      touch {1}/dpu.netns; mount --bind /run/netns/{0}-d {1}/dpu.netns)",
                     id_, dir_));
    WriteConfig("host", "192.0.2.1", "192.0.2.2", fmt::format("pu: {{peer_netns: {}/dpu.netns}}", dir_));
    WriteConfig("dpu", "192.0.2.2", "192.0.2.1", fmt::format("cri: {{pod_log_root: {}/logs}}", dir_));
    fs::create_directories(dir_ + "/logs");
    Spawn("host");
    Spawn("dpu");
    WaitReady();
  }

  ~Node() {
    for (auto& [role, pid] : pids_) kill(pid, SIGKILL);
    for (auto& [role, pid] : pids_) waitpid(pid, nullptr, 0);
    for (const std::string role : {"host", "dpu"}) {
      const std::string netns_folder = dir_ + "/" + role + "/run/netns";
      std::error_code error;
      for (const auto& file : fs::directory_iterator(netns_folder, error)) umount2(file.path().c_str(), MNT_DETACH);
      umount2((dir_ + "/" + role + "/run/bpf").c_str(), MNT_DETACH);
    }
    umount2((dir_ + "/dpu.netns").c_str(), MNT_DETACH);
    (void)sys::Run(
        {.argv = {"sh", "-c", fmt::format("for n in /run/netns/{}-*; do ip netns del ${{n##*/}}; done", id_)}});
    fs::remove_all(dir_);
  }

  void Start(const std::string& role) {
    Spawn(role);
    WaitReady();
  }

  void Spawn(const std::string& role) {
    const std::string netns = fmt::format("--net=/run/netns/{}-{}", id_, role.substr(0, 1));
    const std::string config = fmt::format("{}/{}.yaml", dir_, role), log = fmt::format("{}/{}.log", dir_, role);
    const std::string heterod = bin_ + "/node-agent/heterod";
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    const char* argv[] = {"nsenter", netns.c_str(), heterod.c_str(), "--config", config.c_str(), nullptr};
    pid_t pid = 0;
    REQUIRE(posix_spawnp(&pid, "nsenter", &actions, nullptr, const_cast<char**>(argv), environ) == 0);
    posix_spawn_file_actions_destroy(&actions);
    pids_[role] = pid;
  }

  // All that were started: reconciled, and in touch with each other.
  void WaitReady() {
    if (pids_.size() < 2) return;
    const bool ready = Eventually([&] { return Ready("host") && Ready("dpu"); });
    INFO(*sys::ReadFile(dir_ + "/host.log") << *sys::ReadFile(dir_ + "/dpu.log"));
    REQUIRE(ready);
  }

  // Ends the daemon; its exit code, or 128 + signal.
  int Stop(const std::string& role, int signal_number) {
    kill(pids_[role], signal_number);
    int status = 0;
    waitpid(pids_[role], &status, 0);
    pids_.erase(role);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  // /readyz of the agent, and the other PU alive as it sees it.
  bool Ready(const std::string& role) {
    return Metric(role, "heterod_ready") == "1" && Metric(role, "heterod_lease_valid") == "1" &&
           Metric(role, "heterod_port_stream_connected") == "1";
  }
  std::string Metric(const std::string& role, const std::string& name) {
    absl::StatusOr<sys::RunResult> result =
        sys::Run({.argv = {"nsenter", fmt::format("--net=/run/netns/{}-{}", id_, role[0]), "curl", "-s", "-m", "2",
                           "http://127.0.0.1:9464/metrics"}});
    if (!result.ok()) return "";
    const std::string line = "\n" + name + " ";
    const size_t at = result->stdout_text.find(line);
    if (at == std::string::npos) return "";
    const size_t begin = at + line.size();
    return result->stdout_text.substr(begin, result->stdout_text.find('\n', begin) - begin);
  }

  std::string NewPod(const std::string& name) {
    Must(fmt::format("ip netns add {0}-{1}; ip -n {0}-{1} link set lo up", id_, name));
    return fmt::format("/run/netns/{}-{}", id_, name);
  }

  // A CNI call on the host; the answer of the plugin.
  json Cni(const std::string& command, const std::string& pod, bool split) {
    json config = {
        {"cniVersion", "1.0.0"},
        {"name", "heterok8s"},
        {"type", "heterok8s-cni"},
        {"socket", dir_ + "/host/run/cni.sock"},
        {"queueDir", dir_ + "/host/state/cni-queue"},
        {"ipam",
         {{"type", "heterok8s"}, {"ranges", {{{{"subnet", "10.88.0.0/16"}}}, {{{"subnet", "fd00:88::/64"}}}}}}}};
    if (split) config["runtimeConfig"] = {{"io.kubernetes.cri.pod-annotations", {{"heteropod.io/offload", "dpu"}}}};
    absl::StatusOr<sys::RunResult> result =
        sys::Run({.argv = {bin_ + "/cni/heterok8s-cni"},
                  .env =
                      std::vector<std::string>{
                          "CNI_COMMAND=" + command, "CNI_CONTAINERID=" + id_ + pod, "CNI_IFNAME=eth0",
                          fmt::format("CNI_NETNS=/run/netns/{}-{}", id_, pod), "CNI_PATH=/usr/lib/cni",
                          fmt::format("CNI_ARGS=K8S_POD_NAMESPACE=default;K8S_POD_NAME={0};K8S_POD_UID=uid-{0}", pod)},
                  .stdin_text = config.dump()});
    REQUIRE_OK(result);
    INFO(command << " " << result->stdout_text);
    REQUIRE((result->exit_code == 0 || result->stdout_text.find("\"code\"") != std::string::npos));
    return result->stdout_text.empty() ? json::object() : json::parse(result->stdout_text);
  }

  bool Pings(const std::string& address) {
    return sys::Run({.argv = {"nsenter", fmt::format("--net=/run/netns/{}-d", id_), "ping", "-c1", "-W2", address}})
               ->exit_code == 0;
  }

  // pod-d of the only split Pod.
  std::string PodD() {
    for (const auto& file : fs::directory_iterator(dir_ + "/dpu/run/netns")) return file.path();
    return "";
  }
  size_t Links(const std::string& role) {
    absl::StatusOr<sys::RunResult> result =
        sys::Run({.argv = {"ip", "-j", "-n", fmt::format("{}-{}", id_, role[0]), "link"}});
    return json::parse(result->stdout_text).size();
  }

  const std::string& dir() const { return dir_; }
  const std::string& id() const { return id_; }
  const std::string& bin() const { return bin_; }

 private:
  void WriteConfig(const std::string& role, const std::string& own, const std::string& other, const std::string& more) {
    const std::string text = fmt::format(R"(role: {0}
instance: {5}
node_name: demo
state_dir: {1}/{0}/state
run_dir: {1}/{0}/run
listen: "{2}:7443"
peer: {{address: "{3}:7443"}}
tls: {{ca: {1}/pki/ca.crt, cert: {1}/pki/{0}.crt, key: {1}/pki/{0}.key}}
lease: {{interval_ms: 200, duration_ms: 2000}}
{4}
)",
                                         role, dir_, own, other, more, id_);
    REQUIRE_OK(sys::WriteFileAtomic(fmt::format("{}/{}.yaml", dir_, role), text, 0600));
  }

  static inline int counter_ = 0;
  const std::string id_ = fmt::format("hk{}{}", getpid(), static_cast<char>('a' + counter_++ % 26));
  const std::string dir_ = [this] {
    fs::create_directories("/tmp/" + id_);
    return "/tmp/" + id_;
  }();
  const std::string bin_ = fs::read_symlink("/proc/self/exe").parent_path().parent_path();
  std::map<std::string, pid_t> pids_;
};

// A TCP listener in `netns`, closed with its descriptor; or the errno of bind or listen.
absl::StatusOr<sys::UniqueFd> Listen(const std::string& netns, const std::string& address, uint16_t port) {
  HK_ASSIGN_OR_RETURN(sys::NetnsRef ns, sys::NetnsRef::Open(netns));
  sys::UniqueFd fd;
  HK_RETURN_IF_ERROR(sys::InNetns(ns, [&]() -> absl::Status {
    fd.reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(IpAddress::Parse(address)->v4());
    if (bind(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)) != 0) return ErrnoToStatus(errno, "bind");
    if (listen(fd.get(), 8) != 0) return ErrnoToStatus(errno, "listen");
    return absl::OkStatus();
  }));
  return fd;
}

absl::Status Connect(const std::string& netns, const std::string& address, uint16_t port) {
  HK_ASSIGN_OR_RETURN(sys::NetnsRef ns, sys::NetnsRef::Open(netns));
  return sys::InNetns(ns, [&]() -> absl::Status {
    sys::UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    timeval timeout{.tv_sec = 3, .tv_usec = 0};
    setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(IpAddress::Parse(address)->v4());
    if (connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)) != 0) return ErrnoToStatus(errno, "connect");
    return absl::OkStatus();
  });
}

}  // namespace

TEST_CASE("ordinary and split Pods come, answer, and go without a trace", "[netns]") {
  Node node;
  node.Up();
  const size_t host_links = node.Links("host"), dpu_links = node.Links("dpu");
  node.NewPod("plain");
  node.NewPod("web");

  const json plain = node.Cni("ADD", "plain", false);
  const json web = node.Cni("ADD", "web", true);

  REQUIRE(plain.contains("ips"));
  REQUIRE(web.contains("ips"));
  CHECK(node.Pings("10.88.0.2"));
  CHECK(node.Pings("10.88.0.3"));
  CHECK(node.Metric("dpu", "heterod_split_pods") == "1");
  CHECK(node.Metric("host", "heterod_generations_behind") == "0");
  node.Cni("DEL", "web", true);
  node.Cni("DEL", "plain", false);
  CHECK(node.Metric("host", "heterod_attachments") == "0");
  CHECK(node.Metric("dpu", "heterod_attachments") == "0");
  CHECK(node.Metric("host", "heterod_addresses_used") == "0");
  CHECK(node.Links("host") == host_links);
  CHECK(node.Links("dpu") == dpu_links);
  CHECK(node.PodD().empty());
}

TEST_CASE("a port of one half is refused to the other, reachable by localhost, and known after a restart of both",
          "[netns]") {
  Node node;
  node.Up();
  const std::string pod_h = node.NewPod("web");
  REQUIRE(node.Cni("ADD", "web", true).contains("ips"));
  const std::string pod_d = node.PodD();

  auto on_dpu = Listen(pod_d, "127.0.0.1", 9090);
  auto on_host = Listen(pod_h, "0.0.0.0", 8080);
  REQUIRE_OK(on_dpu);
  REQUIRE_OK(on_host);
  CHECK(Eventually([&] { return Connect(pod_h, "127.0.0.1", 9090).ok(); }));
  CHECK(Eventually([&] { return Connect(pod_d, "127.0.0.1", 8080).ok(); }));
  CHECK_THAT(Listen(pod_h, "127.0.0.1", 9090).status(), testing::Says("Address already in use"));
  CHECK_THAT(Listen(pod_d, "0.0.0.0", 8080).status(), testing::Says("Address already in use"));

  CHECK(node.Stop("host", SIGTERM) == 0);
  CHECK(node.Stop("dpu", SIGTERM) == 0);
  CHECK(node.Pings("10.88.0.2"));  // without any heterod
  CHECK_OK(Connect(pod_h, "127.0.0.1", 9090));
  on_host->reset();  // nobody tells the DPU
  auto moved = Listen(pod_h, "0.0.0.0", 8081);
  REQUIRE_OK(moved);
  node.Start("dpu");
  node.Start("host");

  CHECK(Eventually([&] { return Connect(pod_d, "127.0.0.1", 8081).ok(); }));
  CHECK(Eventually([&] { return Listen(pod_d, "0.0.0.0", 8080).ok(); }));
  node.Cni("DEL", "web", true);
}

TEST_CASE("a DPU that is killed: its Pods are removed when it returns, new ones are refused at once", "[netns]") {
  Node node;
  node.Up();
  node.NewPod("web");
  node.NewPod("other");
  REQUIRE(node.Cni("ADD", "web", true).contains("ips"));

  CHECK(node.Stop("dpu", SIGKILL) == 128 + SIGKILL);
  REQUIRE(Eventually([&] { return node.Metric("host", "heterod_lease_valid") == "0"; }));
  CHECK(node.Cni("ADD", "other", true).value("code", 0) == 100);
  node.Cni("DEL", "web", true);
  CHECK(node.Metric("host", "heterod_tombstones") == "1");
  node.Start("dpu");

  CHECK(Eventually([&] { return node.Metric("host", "heterod_tombstones") == "0"; }));
  CHECK(node.PodD().empty());
  CHECK(node.Cni("ADD", "other", true).contains("ips"));
  node.Cni("DEL", "other", true);
}

TEST_CASE("certificates are rotated under running heterods", "[netns]") {
  Node node;
  node.Up();
  REQUIRE_OK(tls::RotatePki(node.dir() + "/pki", tls::kLeafLifetime));

  // A restart of one side makes new connections both ways, with the new files on one side from the start.
  node.Stop("dpu", SIGTERM);
  node.Start("dpu");
  node.NewPod("web");

  CHECK(node.Cni("ADD", "web", true).contains("ips"));
  node.Cni("DEL", "web", true);
}

TEST_CASE("a second heterod on the same folder is refused", "[netns]") {
  Node node;
  node.Up();

  absl::StatusOr<sys::RunResult> second =
      sys::Run({.argv = {"nsenter", fmt::format("--net=/run/netns/{}-h", node.id()), node.bin() + "/node-agent/heterod",
                         "--config", node.dir() + "/host.yaml"}});

  REQUIRE_OK(second);
  CHECK(second->exit_code == 1);
  CHECK_THAT(second->stdout_text, Catch::Contains("another heterod uses"));
}

}  // namespace heterok8s::agent
