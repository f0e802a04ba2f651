#include "heteroctl/lab/control.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "common/json/whole.h"

namespace heterok8s::lab {

namespace {

using nlohmann::json;

json ToJson(const ControlRequest& r) {
  return {{"act", r.act}, {"daemon", r.daemon}, {"signal", r.signal}, {"hold", r.hold}, {"env", r.env}};
}
json ToJson(const ControlReply& reply) {
  json daemons = json::array();
  for (const DaemonState& d : reply.daemons) {
    daemons.push_back(
        {{"name", d.name}, {"pid", d.pid}, {"held", d.held}, {"starts", d.starts}, {"last_end", d.last_end}});
  }
  return {{"error", reply.error}, {"daemons", daemons}};
}

// These throw std::exception.
void Read(const json& j, ControlRequest& r) {
  j.at("act").get_to(r.act);
  j.at("daemon").get_to(r.daemon);
  r.signal = WholeAt<int>(j, "signal");
  j.at("hold").get_to(r.hold);
  j.at("env").get_to(r.env);
}
void Read(const json& j, DaemonState& d) {
  j.at("name").get_to(d.name);
  d.pid = WholeAt<int>(j, "pid");
  j.at("held").get_to(d.held);
  d.starts = WholeAt<int>(j, "starts");
  j.at("last_end").get_to(d.last_end);
}
void Read(const json& j, ControlReply& reply) {
  j.at("error").get_to(reply.error);
  for (const json& daemon : j.at("daemons")) Read(daemon, reply.daemons.emplace_back());
}

constexpr size_t kMaxPacket = 65536;  // bytes

absl::StatusOr<sockaddr_un> UnixAddress(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return absl::InvalidArgumentError(fmt::format("socket path '{}' is too long", path));
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

absl::StatusOr<std::string> Receive(int fd) {
  std::string packet(kMaxPacket, '\0');
  const ssize_t n = recv(fd, packet.data(), packet.size(), 0);
  if (n < 0 && errno == EAGAIN) return absl::DeadlineExceededError("no answer from the init");
  if (n < 0) return ErrnoToStatus(errno, "receive");
  if (n == 0) return absl::UnavailableError("the init closed the connection");
  packet.resize(static_cast<size_t>(n));
  return packet;
}

template <typename T>
absl::StatusOr<T> Parse(const std::string& packet) {
  try {
    T message;
    Read(json::parse(packet), message);
    return message;
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(error.what());
  }
}

}  // namespace

absl::StatusOr<std::vector<DaemonState>> Ask(const std::string& socket_path, const ControlRequest& request,
                                             std::chrono::milliseconds deadline) {
  const std::string what = fmt::format("ask the init at '{}'", socket_path);
  HK_ASSIGN_OR_RETURN(sockaddr_un address, UnixAddress(socket_path));
  sys::UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoToStatus(errno, what);
  const timeval limit{.tv_sec = deadline.count() / 1000, .tv_usec = (deadline.count() % 1000) * 1000};
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return absl::UnavailableError(fmt::format("{}: {}", what, std::strerror(errno)));
  }
  const std::string packet = ToJson(request).dump();
  if (send(fd.get(), packet.data(), packet.size(), MSG_NOSIGNAL) < 0) return ErrnoToStatus(errno, what);
  absl::StatusOr<std::string> answer = Receive(fd.get());
  if (!answer.ok()) return Annotate(answer.status(), what);
  HK_ASSIGN_OR_RETURN(ControlReply reply, Parse<ControlReply>(*answer));
  if (!reply.error.empty()) return absl::FailedPreconditionError(reply.error);
  return reply.daemons;
}

absl::StatusOr<sys::UniqueFd> ListenControl(const std::string& socket_path) {
  HK_ASSIGN_OR_RETURN(sockaddr_un address, UnixAddress(socket_path));
  sys::UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoToStatus(errno, "open socket");
  unlink(socket_path.c_str());
  if (bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 || listen(fd.get(), 16) != 0) {
    return ErrnoToStatus(errno, fmt::format("listen at '{}'", socket_path));
  }
  return fd;
}

absl::StatusOr<ControlRequest> ReadRequest(int connection) {
  // The init has one thread: whoever connects and says nothing may not hold it.
  const timeval limit{.tv_sec = 1, .tv_usec = 0};
  setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  HK_ASSIGN_OR_RETURN(std::string packet, Receive(connection));
  return Parse<ControlRequest>(packet);
}

void SendReply(int connection, const ControlReply& reply) {
  const std::string packet = ToJson(reply).dump();
  // The asker may have left; nobody else wants the answer.
  (void)!send(connection, packet.data(), packet.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

}  // namespace heterok8s::lab
