#include "heteroctl/lab/forward.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <thread>

#include "common/sys/file.h"
#include "common/sys/netns.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::lab {
namespace {

absl::StatusOr<sockaddr_in> ParseAddress(const std::string& text) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  const size_t colon = text.rfind(':');
  const int port = colon == std::string::npos ? 0 : std::atoi(text.c_str() + colon + 1);
  if (port <= 0 || port > 65535 || inet_pton(AF_INET, text.substr(0, colon).c_str(), &address.sin_addr) != 1) {
    return absl::InvalidArgumentError(fmt::format("'{}' is no address:port", text));
  }
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

absl::StatusOr<sys::UniqueFd> Listen(uint16_t port, uint16_t* chosen) {
  sys::UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoToStatus(errno, "open socket");
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || listen(fd.get(), 64) != 0) {
    return ErrnoToStatus(errno, fmt::format("listen at 127.0.0.1:{}", port));
  }
  socklen_t size = sizeof address;
  if (getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) return ErrnoToStatus(errno, "own port");
  *chosen = ntohs(address.sin_port);
  return fd;
}

bool SendAll(int fd, const char* data, size_t size) {
  while (size > 0) {
    const ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    data += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

// Until both directions have ended; the end of one is passed on as such.
void Carry(const sys::UniqueFd& a, const sys::UniqueFd& b) {
  std::array<char, 64 * 1024> buffer;
  std::array<pollfd, 2> fds = {{{a.get(), POLLIN, 0}, {b.get(), POLLIN, 0}}};
  while (fds[0].fd >= 0 || fds[1].fd >= 0) {
    if (poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) return;
    for (size_t i = 0; i < 2; ++i) {
      if (fds[i].fd < 0 || fds[i].revents == 0) continue;
      const int to = i == 0 ? b.get() : a.get();
      const ssize_t n = recv(fds[i].fd, buffer.data(), buffer.size(), 0);
      if (n < 0) return;
      if (n == 0) {
        shutdown(to, SHUT_WR);
        fds[i].fd = -1;
      } else if (!SendAll(to, buffer.data(), static_cast<size_t>(n))) {
        return;
      }
    }
  }
}

void Serve(sys::UniqueFd client, sockaddr_in to) {
  sys::UniqueFd server(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!server.valid() || connect(server.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) != 0) return;
  Carry(client, server);
}

}  // namespace

absl::Status RunForward(const ForwardOptions& options) {
  HK_ASSIGN_OR_RETURN(sockaddr_in to, ParseAddress(options.to));
  uint16_t port = 0, chosen = 0;
  if (absl::StatusOr<std::string> text = sys::ReadFile(options.port_file); text.ok()) {
    port = static_cast<uint16_t>(std::atoi(text->c_str()));
  }
  absl::StatusOr<sys::UniqueFd> listener = absl::UnknownError("");
  auto listen_here = [&]() -> absl::Status {
    listener = Listen(port, &chosen);
    return listener.status();
  };
  if (options.listen_netns.empty()) {
    HK_RETURN_IF_ERROR(listen_here());
  } else {
    HK_ASSIGN_OR_RETURN(sys::NetnsRef netns, sys::NetnsRef::Open(options.listen_netns));
    HK_RETURN_IF_ERROR(sys::InNetns(netns, listen_here));
  }
  if (port == 0) HK_RETURN_IF_ERROR(sys::WriteFileAtomic(options.port_file, fmt::format("{}\n", chosen), 0644));
  while (true) {
    sys::UniqueFd client(accept4(listener->get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!client.valid()) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      return ErrnoToStatus(errno, "accept");
    }
    std::thread(Serve, std::move(client), to).detach();
  }
}

}  // namespace heterok8s::lab
