#include "heteroctl/lab/ready.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <optional>
#include <thread>

#include "common/sys/netns.h"
#include "common/sys/unique_fd.h"
#include "heteroctl/lab/control.h"
#include "heteroctl/pod/cri_client.h"

namespace heterok8s::lab {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kPause{10};  // between two questions: there is nothing that all parts announce
constexpr int kTooManyEnds = 4;
constexpr uint16_t kMetricsPort = 9464;

absl::Status ConnectUnix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return absl::InvalidArgumentError(fmt::format("'{}' is too long", path));
  std::memcpy(address.sun_path, path.c_str(), path.size());
  sys::UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoToStatus(errno, "open socket");
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return absl::OkStatus();
  return absl::UnavailableError(fmt::format("connect to '{}': {}", path, std::strerror(errno)));
}

// Where a daemon says in plain HTTP whether it does its work; with no path, where it listens when it does.
struct Health {
  const char* daemon;
  uint16_t port;
  const char* path;
  const char* says = "";  // somewhere in the answer
};
constexpr Health kHealth[] = {
    {"heterod", kMetricsPort, "/readyz"},
    {"heterod", kMetricsPort, "/metrics", "\nheterod_peer_ready 1\n"},  // and has heard that the other is
    {"etcd", 2379, "/health"},
    {"kube-apiserver", 6443, ""},  // in TLS; the wait for Nodes asks more
    {"kube-controller-manager", 10257, ""},
    {"kube-scheduler", 10259, ""},
    {"kubelet", 10248, "/healthz"},
    {"kube-proxy", 10256, "/healthz"},
};

// GET http://127.0.0.1:port/path in the place: 200, or the reason why not.
absl::Status AskHealth(const Layout& layout, Place pu, const Health& health) {
  HK_ASSIGN_OR_RETURN(sys::NetnsRef netns, sys::NetnsRef::Open(layout.Netns(pu)));
  std::string answer;
  HK_RETURN_IF_ERROR(sys::InNetns(netns, [&]() -> absl::Status {
    sys::UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const timeval limit{.tv_sec = 2, .tv_usec = 0};
    setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(health.port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      return absl::UnavailableError(fmt::format("connect to 127.0.0.1:{}: {}", health.port, std::strerror(errno)));
    }
    if (health.path[0] == '\0') return absl::OkStatus();
    const std::string request =
        fmt::format("GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", health.path);
    if (send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return ErrnoToStatus(errno, health.path);
    char buffer[4096];
    for (ssize_t n; (n = recv(fd.get(), buffer, sizeof buffer, 0)) > 0;) answer.append(buffer, static_cast<size_t>(n));
    return absl::OkStatus();
  }));
  if (health.path[0] == '\0') return absl::OkStatus();
  const std::string status_line = answer.substr(0, answer.find("\r\n"));
  if (status_line.find(" 200") != std::string::npos) {
    if (answer.find(health.says) != std::string::npos) return absl::OkStatus();
    return absl::UnavailableError(fmt::format("{} does not say '{}'", health.path, health.says));
  }
  const size_t body = answer.find("\r\n\r\n");
  return absl::UnavailableError(
      fmt::format("{}: {}: {}", health.path, status_line, body == std::string::npos ? "" : answer.substr(body + 4)));
}

absl::Status AskPart(const Layout& layout, const Part& part) {
  bool known = false;
  for (const Health& health : kHealth) {
    if (part.daemon != health.daemon) continue;
    known = true;
    HK_RETURN_IF_ERROR(AskHealth(layout, part.pu, health));
  }
  if (known) return absl::OkStatus();
  const std::string socket = part.daemon == "heterocri" ? layout.PuRun(part.pu) + "/heterok8s/cri.sock"
                                                        : layout.PuRun(part.pu) + "/containerd/containerd.sock";
  HK_RETURN_IF_ERROR(ConnectUnix(socket));
  return ctl::CriClient::Connect(socket).status();  // asks Version
}

// Unknown while the init is not there yet: the deadline decides.
std::optional<DaemonState> StateOf(const Layout& layout, const Part& part) {
  absl::StatusOr<std::vector<DaemonState>> states = Ask(layout.Control(part.pu), {}, std::chrono::seconds(2));
  if (!states.ok()) return std::nullopt;
  for (DaemonState& state : *states) {
    if (state.name == part.daemon) return std::move(state);
  }
  return std::nullopt;
}

}  // namespace

std::vector<Part> Parts(const Layout& layout, const ConfigOptions& options) {
  std::vector<Part> parts;
  for (Place place : PlacesWithInit(layout, options)) {
    for (const DaemonSpec& daemon : MakeInitSpec(layout, place, options).daemons) {
      if (daemon.name != "lab-forward") parts.push_back({place, daemon.name});  // waited for by its port file
    }
  }
  return parts;
}

absl::Status WaitForSocket(const std::string& path, Clock::time_point deadline) {
  while (true) {
    absl::Status status = ConnectUnix(path);
    if (status.ok()) return status;
    if (Clock::now() > deadline) return absl::DeadlineExceededError(Message(status));
    std::this_thread::sleep_for(kPause);
  }
}

absl::Status WaitForPart(const Layout& layout, const Part& part, Clock::time_point deadline) {
  const std::string what = fmt::format("{} on the {}", part.daemon, Name(part.pu));
  // kubelet ends for as long as there is no heterocri, however long that takes.
  if (part.daemon == "kubelet") HK_RETURN_IF_ERROR(WaitForPart(layout, {part.pu, "heterocri"}, deadline));
  std::optional<int> starts_before;
  while (true) {
    absl::Status status = AskPart(layout, part);
    if (status.ok()) return status;
    // A daemon that cannot start is no reason to wait for the deadline. What it did before its turn came does not
    // count.
    if (std::optional<DaemonState> state = StateOf(layout, part)) {
      if (!starts_before.has_value()) starts_before = state->starts;
      const int ends = state->starts - *starts_before;
      if (ends >= kTooManyEnds)
        return absl::FailedPreconditionError(
            fmt::format("{}: ended {} times, last by {}", what, ends, state->last_end));
    }
    if (Clock::now() > deadline)
      return absl::DeadlineExceededError(fmt::format("{} is not ready: {}", what, Message(status)));
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace heterok8s::lab
