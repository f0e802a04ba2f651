#include "node-agent/cri/lab/two_runtimes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "common/sys/file.h"
#include "common/sys/mount_root.h"
#include "common/sys/process.h"
#include "common/testing/eventually.h"
#include "common/testing/matchers.h"
#include "common/tls/credentials.h"
#include "common/tls/pki.h"

namespace heterok8s::cri {
namespace {

namespace fs = std::filesystem;
namespace rt = runtime::v1;

// Read before the next line makes the path of this program one of another mount namespace.
const fs::path own_program = fs::read_symlink("/proc/self/exe");

// The containers' mounts stay ours, and runc's exec finds a container also when the test runs in a chroot. Before main,
// as both calls are for a process with one thread.
const absl::Status own_mounts = [] {
  if (unshare(CLONE_NEWNS) != 0) return ErrnoToStatus(errno, "make a mount namespace");
  return sys::MakeRootOfMountNamespace();
}();

int labs_of_this_process = 0;  // a lab whose folder is kept does not stand in the way of the next

void WaitFor(const std::string& what, const std::function<bool()>& there) {
  INFO(what);
  REQUIRE(testing::Eventually(there));
}

void MustRun(std::vector<std::string> argv) {
  auto result = sys::Run({.argv = std::move(argv), .deadline = std::chrono::milliseconds(120000)});
  REQUIRE_OK(result);
  INFO(result->stdout_text << result->stderr_text);
  REQUIRE(result->exit_code == 0);
}

// Shims outlive their containerd; ours are those that name our folder.
void KillAllThatName(const std::string& folder) {
  for (const auto& entry : fs::directory_iterator("/proc")) {
    std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos || std::stoi(name) == getpid()) continue;
    std::ifstream file(entry.path() / "cmdline");
    std::string line((std::istreambuf_iterator<char>(file)), {});
    if (line.find("containerd") != std::string::npos && line.find(folder) != std::string::npos)
      kill(std::stoi(name), SIGKILL);
  }
}

void RemoveCgroups(const std::string& name) {
  std::error_code error;
  for (const auto& hierarchy : fs::directory_iterator("/sys/fs/cgroup", error)) {
    std::string top = hierarchy.path().string() + name;
    if (!fs::exists(top, error)) continue;
    std::vector<std::string> folders = {top};
    for (const auto& entry : fs::recursive_directory_iterator(top, error)) {
      if (entry.is_directory(error)) folders.push_back(entry.path());
    }
    for (auto at = folders.rbegin(); at != folders.rend(); ++at) {
      std::ifstream processes(*at + "/cgroup.procs");
      for (int pid; processes >> pid;) kill(pid, SIGKILL);
    }
    for (int i = 0; i < 100 && !folders.empty(); ++i) {
      std::erase_if(folders, [](const std::string& folder) { return rmdir(folder.c_str()) == 0; });
      if (!folders.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
}

}  // namespace

Child::Child(const std::vector<std::string>& argv, const std::string& log) {
  pid_ = fork();
  if (pid_ == 0) {
    setsid();
    int fd = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(fd, 1);
    dup2(fd, 2);
    std::vector<char*> words;
    for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
    words.push_back(nullptr);
    execvp(words[0], words.data());
    _exit(127);
  }
}

Child& Child::operator=(Child&& other) noexcept {
  Kill();
  pid_ = std::exchange(other.pid_, -1);
  return *this;
}

void Child::Kill() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(std::exchange(pid_, -1), nullptr, 0);
}

void Child::Terminate() {
  if (pid_ <= 0) return;
  kill(pid_, SIGTERM);
  waitpid(std::exchange(pid_, -1), nullptr, 0);
}

ContainerdUnderTest::ContainerdUnderTest(std::string folder, std::string subnet, const std::string& images)
    : folder_(std::move(folder)),
      socket_(folder_ + "/c.sock"),
      images_(images),
      channel_(UnixChannel(socket_)),
      keeper_(channel_) {
  fs::create_directories(folder_ + "/cni");
  std::ofstream(folder_ + "/cni/10.conflist") << fmt::format(
      R"({{"cniVersion":"0.4.0","name":"t","plugins":[{{"type":"ptp","ipam":{{"type":"host-local","dataDir":"{}/ipam","ranges":[[{{"subnet":"{}"}}]]}}}}]}})",
      folder_, subnet);
  std::ofstream(folder_ + "/containerd.toml") << fmt::format(R"(version = 2
root = "{0}/root"
state = "{0}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{1}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{0}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "hk.test/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{0}/cni"
)",
                                                             folder_, socket_);
  stub_ = rt::RuntimeService::NewStub(channel_);
  Start();
  for (const char* image : {"pause", "busybox"}) {
    MustRun({"ctr", "-a", socket_, "-n", "k8s.io", "images", "import", images + "/" + image + ".tar"});
  }
}

void ContainerdUnderTest::Start() {
  process_ =
      Child({"unshare", "-n", "containerd", "--config", folder_ + "/containerd.toml"}, folder_ + "/containerd.log");
  WaitFor("containerd answers", [&] {
    rt::StatusResponse response;
    if (!Ask(*stub_, &rt::RuntimeService::Stub::Status, rt::StatusRequest(), &response, 2).ok()) return false;
    bool ready = response.status().conditions_size() > 0;
    for (const rt::RuntimeCondition& condition : response.status().conditions()) ready &= condition.status();
    return ready;
  });
}

ContainerdUnderTest::~ContainerdUnderTest() {
  // What a failed test left: sandboxes first, so that mounts and network namespaces go the ordinary way.
  rt::ListPodSandboxResponse list;
  if (Ask(*stub_, &rt::RuntimeService::Stub::ListPodSandbox, rt::ListPodSandboxRequest(), &list, 5).ok()) {
    for (const rt::PodSandbox& sandbox : list.items()) {
      rt::StopPodSandboxRequest stop;
      stop.set_pod_sandbox_id(sandbox.id());
      rt::StopPodSandboxResponse stopped;
      Ask(*stub_, &rt::RuntimeService::Stub::StopPodSandbox, stop, &stopped);
      rt::RemovePodSandboxRequest remove;
      remove.set_pod_sandbox_id(sandbox.id());
      rt::RemovePodSandboxResponse removed;
      Ask(*stub_, &rt::RuntimeService::Stub::RemovePodSandbox, remove, &removed);
    }
  }
  process_.Terminate();
}

Lab::Lab(std::chrono::milliseconds lease)
    : folder_(fmt::format("/var/tmp/hk-cri-lab-{}-{}", getpid(), ++labs_of_this_process)),
      cgroup_(fmt::format("/hk-cri-lab-{}-{}", getpid(), labs_of_this_process)),
      images_(folder_ + "/images") {
  REQUIRE_OK(own_mounts);
  fs::create_directories(folder_);
  fs::path script = "node-agent/cri/lab/make_images";
  if (!fs::exists(script)) script = own_program.string() + ".runfiles/heterok8s/" + script.string();
  MustRun({"bash", script, images_});
  host = std::make_unique<ContainerdUnderTest>(folder_ + "/host", "10.231.1.0/24", images_);
  dpu = std::make_unique<ContainerdUnderTest>(folder_ + "/dpu", "10.231.2.0/24", images_);
  REQUIRE_OK(tls::InitPki({.dir = folder_ + "/pki", .node = "lab"}));
  heterod_ = std::make_unique<LabHeterod>(folder_ + "/heterod.sock", lease);
  ServeDpu();
  std::ofstream(folder_ + "/heterocri.yaml")
      << fmt::format(R"(listen: {0}/cri.sock
state_dir: {0}/state
host: {{socket: {1}, heterod: {0}/heterod.sock}}
dpu:
  address: "127.0.0.1:{2}"
  tls: {{ca: {0}/pki/ca.crt, cert: {0}/pki/cri.crt, key: {0}/pki/cri.key}}
  pod_log_root: {0}/dpu/logs
  cgroup_parent: {3}/dpu
lease: {{interval_ms: 1000, duration_ms: {4}}}
offload_containers: [side]
metrics: {{listen: "127.0.0.1:0"}}
)",
                     folder_, host->socket(), port_.number(), cgroup_, lease.count());
  StartHeterocri();
}

Lab::~Lab() {
  heterocri_.Terminate();
  StopDpu();
  host.reset();
  dpu.reset();
  KillAllThatName(folder_);
  RemoveCgroups(cgroup_);
  std::ifstream mounts("/proc/self/mounts");
  std::vector<std::string> ours;
  for (std::string device, path, rest; mounts >> device >> path && std::getline(mounts, rest);) {
    if (path.rfind(folder_, 0) == 0) ours.push_back(path);
  }
  for (auto at = ours.rbegin(); at != ours.rend(); ++at) sys::Run({.argv = {"umount", "-l", *at}}).IgnoreError();
  if (std::getenv("HK_KEEP") == nullptr) fs::remove_all(folder_);
}

void Lab::ServeDpu() {
  auto authorize = [](const grpc::ServerContextBase& context) {
    return tls::RequirePeer(context, "lab", {tls::Role::kCri, tls::Role::kHost});
  };
  auto runtime = DpuRuntimeService::Open(
      {.pod_log_root = folder_ + "/dpu/logs", .volume_root = folder_ + "/dpu/volumes", .authorize = authorize});
  REQUIRE_OK(runtime);
  dpu_runtime_ = *std::move(runtime);
  relay_ = std::make_unique<Relay>(RelayOptions{.socket = dpu->socket(), .authorize = authorize});
  auto credentials = tls::ServerCredentials(
      {.ca = folder_ + "/pki/ca.crt", .certificate = folder_ + "/pki/dpu.crt", .key = folder_ + "/pki/dpu.key"});
  REQUIRE_OK(credentials);
  grpc::ServerBuilder builder;
  builder.AddListeningPort(fmt::format("127.0.0.1:{}", port_.number()), *credentials);
  builder.RegisterService(dpu_runtime_.get());
  relay_->Register(builder);
  dpu_server_ = builder.BuildAndStart();
  REQUIRE(dpu_server_);
  heterod_->SetDpuAlive(true);
}

void Lab::StopDpu() {
  if (heterod_) heterod_->SetDpuAlive(false);
  if (dpu_server_) dpu_server_->Shutdown(std::chrono::system_clock::now());
  dpu_server_.reset();
}

void Lab::StartHeterocri() {
  heterocri_ = Child({own_program.parent_path() / "heterocri", "--config", folder_ + "/heterocri.yaml"},
                     folder_ + "/heterocri.log");
  channel_ = UnixChannel(folder_ + "/cri.sock");
  keeper_ = std::make_unique<rpc::ChannelKeeper>(channel_);
  runtime_ = rt::RuntimeService::NewStub(channel_);
  image_ = rt::ImageService::NewStub(channel_);
  WaitFor("heterocri answers", [&] {
    rt::VersionResponse response;
    return Ask(*runtime_, &rt::RuntimeService::Stub::Version, rt::VersionRequest(), &response, 2).ok();
  });
}

rt::PodSandboxConfig Lab::Pod(const std::string& name) {
  rt::PodSandboxConfig config;
  std::string uid = fmt::format("{}-{}-0000", name, getpid());
  config.mutable_metadata()->set_name(name);
  config.mutable_metadata()->set_namespace_("lab");
  config.mutable_metadata()->set_uid(uid);
  config.set_hostname(name);
  config.set_log_directory(folder_ + "/logs/" + name);
  fs::create_directories(config.log_directory());
  fs::create_directories(PodFolder(uid));
  config.mutable_linux()->set_cgroup_parent(cgroup_ + "/host");
  config.mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_pid(rt::CONTAINER);
  return config;
}

}  // namespace heterok8s::cri
