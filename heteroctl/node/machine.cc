#include "heteroctl/node/machine.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <filesystem>
#include <thread>

#include "common/sys/file.h"
#include "common/sys/process.h"
#include "heteroctl/pod/cri_client.h"

namespace heterok8s::ctl {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds kCommand{90};  // systemd's own limit for a start, DefaultTimeoutStartSec
constexpr const char* kLock = "/run/heterok8s-node.lock";

}  // namespace

absl::StatusOr<std::string> SystemdMachine::Read(const std::string& path) { return sys::ReadFile(root_ + path); }

absl::Status SystemdMachine::Write(const std::string& path, const std::string& text) {
  std::error_code error;
  fs::create_directories(fs::path(root_ + path).parent_path(), error);
  if (error) return ErrnoToStatus(error.value(), fmt::format("make the folder of '{}'", root_ + path));
  return sys::WriteFileAtomic(root_ + path, text, 0644);
}

absl::Status SystemdMachine::Remove(const std::string& path) {
  std::error_code error;
  fs::remove(root_ + path, error);
  return error ? ErrnoToStatus(error.value(), fmt::format("remove '{}'", root_ + path)) : absl::OkStatus();
}

absl::StatusOr<std::string> SystemdMachine::Systemctl(const std::vector<std::string>& arguments) {
  std::vector<std::string> argv = {"systemctl"};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  return Run(argv);
}

absl::StatusOr<std::string> SystemdMachine::Run(const std::vector<std::string>& argv) {
  HK_ASSIGN_OR_RETURN(sys::RunResult result, sys::Run({.argv = argv, .deadline = kCommand}));
  if (result.exit_code != 0) {
    return absl::InternalError(
        fmt::format("`{}`: exit {}: {}", fmt::join(argv, " "), result.exit_code, result.stderr_text));
  }
  return result.stdout_text;
}

absl::Status SystemdMachine::HttpOk(int port, const std::string& path) {
  const std::string what = fmt::format("http://127.0.0.1:{}{}", port, path);
  sys::UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const timeval limit{.tv_sec = 2, .tv_usec = 0};
  if (!fd.valid() || setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) != 0 ||
      connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    return ErrnoToStatus(errno, what);
  }
  const std::string request = fmt::format("GET {} HTTP/1.0\r\nHost: localhost\r\n\r\n", path);
  if (send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return ErrnoToStatus(errno, what);
  char answer[256];
  ssize_t got = recv(fd.get(), answer, sizeof(answer), MSG_WAITALL);
  if (got < 0) return ErrnoToStatus(errno, what);
  std::string line(answer, static_cast<size_t>(got));
  line = line.substr(0, line.find('\r'));
  if (line.find(" 200") == std::string::npos) return absl::UnavailableError(fmt::format("{}: '{}'", what, line));
  return absl::OkStatus();
}

absl::StatusOr<int> SystemdMachine::SplitPods(const std::string& socket) {
  HK_ASSIGN_OR_RETURN(std::unique_ptr<CriClient> cri, CriClient::Connect(socket));
  HK_ASSIGN_OR_RETURN(auto list, cri->ListPodSandbox());
  int split = 0;
  for (const auto& pod : list.items()) {
    auto placement = pod.annotations().find("heteropod.io/placement");
    split += pod.state() == runtime::v1::SANDBOX_READY && placement != pod.annotations().end() &&
             placement->second == "split";
  }
  return split;
}

void SystemdMachine::Sleep(std::chrono::milliseconds time) { std::this_thread::sleep_for(time); }

std::chrono::milliseconds SystemdMachine::Now() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now().time_since_epoch());
}

std::chrono::milliseconds SystemdMachine::Clock() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::system_clock::now().time_since_epoch());
}

absl::Status SystemdMachine::BeTheOnlyOne() {
  if (lock_.valid()) return absl::OkStatus();
  const std::string path = root_ + kLock;
  std::error_code error;
  fs::create_directories(fs::path(path).parent_path(), error);  // of a folder that stands for "/"
  sys::UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoToStatus(errno, fmt::format("open '{}'", path));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoToStatus(errno, fmt::format("lock '{}'", path));
    return absl::UnavailableError(
        fmt::format("another `heteroctl node` is at work on this machine: it has '{}'", path));
  }
  lock_ = std::move(fd);
  return absl::OkStatus();
}

}  // namespace heterok8s::ctl
