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
#include <thread>

#include "common/sys/netns.h"
#include "common/sys/unique_fd.h"
#include "heteroctl/lab/control.h"
#include "heteroctl/pod/cri_client.h"

namespace heterok8s::lab {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kPause{10};  // between two questions: there is nothing that all parts announce
constexpr int kTooManyStarts = 5;
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

// GET http://127.0.0.1:9464/readyz in the PU: 200, or the reason why not. heterod says ready only with a valid lease.
absl::Status AskReadyz(const Layout& layout, Place pu) {
  HK_ASSIGN_OR_RETURN(sys::NetnsRef netns, sys::NetnsRef::Open(layout.Netns(pu)));
  std::string answer;
  HK_RETURN_IF_ERROR(sys::InNetns(netns, [&]() -> absl::Status {
    sys::UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const timeval limit{.tv_sec = 2, .tv_usec = 0};
    setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(kMetricsPort);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      return absl::UnavailableError(fmt::format("connect to 127.0.0.1:{}: {}", kMetricsPort, std::strerror(errno)));
    }
    const std::string request = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    if (send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return ErrnoToStatus(errno, "GET /readyz");
    char buffer[4096];
    for (ssize_t n; (n = recv(fd.get(), buffer, sizeof buffer, 0)) > 0;) answer.append(buffer, static_cast<size_t>(n));
    return absl::OkStatus();
  }));
  const std::string status_line = answer.substr(0, answer.find("\r\n"));
  if (status_line.find(" 200") != std::string::npos) return absl::OkStatus();
  const size_t body = answer.find("\r\n\r\n");
  return absl::UnavailableError(
      fmt::format("/readyz: {}: {}", status_line, body == std::string::npos ? "" : answer.substr(body + 4)));
}

absl::Status AskPart(const Layout& layout, const Part& part) {
  if (part.daemon == "heterod") return AskReadyz(layout, part.pu);
  const std::string socket = part.daemon == "heterocri" ? layout.PuRun(part.pu) + "/heterok8s/cri.sock"
                                                        : layout.PuRun(part.pu) + "/containerd/containerd.sock";
  HK_RETURN_IF_ERROR(ConnectUnix(socket));
  return ctl::CriClient::Connect(socket).status();  // asks Version
}

// A daemon that cannot start is no reason to wait for the deadline.
absl::Status CheckStarts(const Layout& layout, const Part& part) {
  absl::StatusOr<std::vector<DaemonState>> states = Ask(layout.Control(part.pu), {}, std::chrono::seconds(2));
  if (!states.ok()) return absl::OkStatus();  // the init is not there yet; the deadline decides
  for (const DaemonState& state : *states) {
    if (state.name == part.daemon && state.starts >= kTooManyStarts) {
      return absl::FailedPreconditionError(fmt::format("ended {} times, last by {}", state.starts - 1, state.last_end));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<Part> Parts(bool agents) {
  std::vector<Part> parts = {{Place::kHost, "containerd"}, {Place::kDpu, "containerd"}};
  if (agents)
    parts.insert(parts.end(), {{Place::kHost, "heterod"}, {Place::kDpu, "heterod"}, {Place::kHost, "heterocri"}});
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
  while (true) {
    absl::Status status = AskPart(layout, part);
    if (status.ok()) return status;
    HK_RETURN_IF_ERROR(Annotate(CheckStarts(layout, part), what));
    if (Clock::now() > deadline)
      return absl::DeadlineExceededError(fmt::format("{} is not ready: {}", what, Message(status)));
    std::this_thread::sleep_for(kPause);
  }
}

}  // namespace heterok8s::lab
