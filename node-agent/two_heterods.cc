#include "node-agent/two_heterods.h"

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

#include <atomic>
#include <catch2/catch.hpp>
#include <filesystem>
#include <iostream>
#include <random>

#include "common/net/ip.h"
#include "common/sys/file.h"
#include "common/sys/netns.h"
#include "common/sys/process.h"
#include "common/tls/pki.h"

namespace heterok8s::agent {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::Eventually;

namespace {

// Random too: what a killed test of the same process id has left is not taken for ours. Short enough for an interface.
std::string NewId() {
  static std::atomic<int> counter = 0;
  return fmt::format("hk{}{:02x}{}", getpid(), std::random_device()() & 0xff, static_cast<char>('a' + counter++ % 26));
}

void Must(const std::string& command) {
  absl::StatusOr<sys::RunResult> result = sys::Run({.argv = {"sh", "-ec", command}});
  REQUIRE_OK(result);
  INFO(command << "\n" << result->stderr_text);
  REQUIRE(result->exit_code == 0);
}

std::string MadeFolder(const std::string& path) {
  fs::create_directories(path);
  return path;
}

}  // namespace

TwoHeterods::TwoHeterods()
    : id_(NewId()),
      dir_(MadeFolder("/tmp/" + id_)),
      bin_(fs::read_symlink("/proc/self/exe").parent_path().parent_path()) {}

void TwoHeterods::Up(const std::string& mechanism) {
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
  Configure(mechanism);
  fs::create_directories(dir_ + "/logs");
  Spawn("host");
  Spawn("dpu");
  WaitReady();
}

TwoHeterods::~TwoHeterods() {
  if (!Catch::getResultCapture().lastAssertionPassed() || std::uncaught_exceptions() > 0) {
    for (const std::string role : {"host", "dpu"})
      std::cerr << role << ":\n" << sys::ReadFile(fmt::format("{}/{}.log", dir_, role)).value_or("no log\n");
  }
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

void TwoHeterods::Configure(const std::string& mechanism) {
  const std::string ports = fmt::format("ports: {{mechanism: {}}}\n", mechanism);
  WriteConfig("host", "192.0.2.1", "192.0.2.2", ports + fmt::format("pu: {{peer_netns: {}/dpu.netns}}", dir_));
  WriteConfig("dpu", "192.0.2.2", "192.0.2.1", ports + fmt::format("cri: {{pod_log_root: {}/logs}}", dir_));
}

void TwoHeterods::Start(const std::string& role) {
  Spawn(role);
  WaitReady();
}

void TwoHeterods::Spawn(const std::string& role) {
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

void TwoHeterods::WaitReady() {
  if (pids_.size() < 2) return;
  const bool ready = Eventually([&] { return Ready("host") && Ready("dpu"); });
  INFO(*sys::ReadFile(dir_ + "/host.log") << *sys::ReadFile(dir_ + "/dpu.log"));
  REQUIRE(ready);
}

int TwoHeterods::Stop(const std::string& role, int signal_number) {
  kill(pids_[role], signal_number);
  int status = 0;
  waitpid(pids_[role], &status, 0);
  pids_.erase(role);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

bool TwoHeterods::Ready(const std::string& role) {
  return Metric(role, "heterod_ready") == "1" && Metric(role, "heterod_peer_ready") == "1" &&
         Metric(role, "heterod_port_stream_connected") == "1";
}

std::string TwoHeterods::Metric(const std::string& role, const std::string& name) {
  absl::StatusOr<sys::RunResult> result =
      sys::Run({.argv = {"nsenter", fmt::format("--net=/run/netns/{}-{}", id_, role[0]), "curl", "-s", "-m", "10",
                         "http://127.0.0.1:9464/metrics"}});
  if (!result.ok()) return "";
  const std::string line = "\n" + name + " ";
  const size_t at = result->stdout_text.find(line);
  if (at == std::string::npos) return "";
  const size_t begin = at + line.size();
  return result->stdout_text.substr(begin, result->stdout_text.find('\n', begin) - begin);
}

std::string TwoHeterods::NewPod(const std::string& name) {
  Must(fmt::format("ip netns add {0}-{1}; ip -n {0}-{1} link set lo up", id_, name));
  return fmt::format("/run/netns/{}-{}", id_, name);
}

json TwoHeterods::Cni(const std::string& command, const std::string& pod, bool split) {
  json config = {
      {"cniVersion", "1.0.0"},
      {"name", "heterok8s"},
      {"type", "heterok8s-cni"},
      {"socket", dir_ + "/host/run/cni.sock"},
      {"queueDir", dir_ + "/host/state/cni-queue"},
      {"ipam", {{"type", "heterok8s"}, {"ranges", {{{{"subnet", "10.88.0.0/16"}}}, {{{"subnet", "fd00:88::/64"}}}}}}}};
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
  UNSCOPED_INFO(command << " " << pod << ": " << result->stdout_text);  // also for what the caller asserts next
  REQUIRE((result->exit_code == 0 || result->stdout_text.find("\"code\"") != std::string::npos));
  return result->stdout_text.empty() ? json::object() : json::parse(result->stdout_text);
}

bool TwoHeterods::Pings(const std::string& address) {
  return sys::Run({.argv = {"nsenter", fmt::format("--net=/run/netns/{}-d", id_), "ping", "-c1", "-w30", address}})
             ->exit_code == 0;
}

std::string TwoHeterods::PodD() {
  for (const auto& file : fs::directory_iterator(dir_ + "/dpu/run/netns")) return file.path();
  return "";
}

size_t TwoHeterods::Links(const std::string& role) {
  absl::StatusOr<sys::RunResult> result =
      sys::Run({.argv = {"ip", "-j", "-n", fmt::format("{}-{}", id_, role[0]), "link"}});
  return json::parse(result->stdout_text).size();
}

void TwoHeterods::WriteConfig(const std::string& role, const std::string& own, const std::string& other,
                              const std::string& more) {
  const std::string text = fmt::format(R"(role: {0}
instance: {5}
node_name: demo
state_dir: {1}/{0}/state
run_dir: {1}/{0}/run
listen: "{2}:7443"
peer: {{address: "{3}:7443"}}
tls: {{ca: {1}/pki/ca.crt, cert: {1}/pki/{0}.crt, key: {1}/pki/{0}.key}}
lease: {{interval_ms: 200, duration_ms: {6}}}
{4}
)",
                                       role, dir_, own, other, more, id_, lease.count());
  REQUIRE_OK(sys::WriteFileAtomic(fmt::format("{}/{}.yaml", dir_, role), text, 0600));
}

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
    timeval timeout{.tv_sec = 10, .tv_usec = 0};
    setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    sockaddr_in to{.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(IpAddress::Parse(address)->v4());
    if (connect(fd.get(), reinterpret_cast<sockaddr*>(&to), sizeof(to)) != 0) return ErrnoToStatus(errno, "connect");
    return absl::OkStatus();
  });
}

}  // namespace heterok8s::agent
