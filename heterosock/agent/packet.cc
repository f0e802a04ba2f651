#include "heterosock/agent/packet.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace heterok8s::heterosock::agent {
namespace {

constexpr size_t kMostDescriptors = 16;

ssize_t Receive(int fd, msghdr& message, int flags) {
  ssize_t got;
  do {
    got = recvmsg(fd, &message, flags | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  return got;
}

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address = {.sun_family = AF_UNIX};
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return absl::InvalidArgumentError(fmt::format("'{}' cannot be the path of a socket", path));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

}  // namespace

Received ReceivePacket(int fd, Packet& packet, size_t max_bytes, size_t max_descriptors) {
  packet.descriptors.clear();
  packet.bytes.resize(max_bytes);
  alignas(cmsghdr) char control[CMSG_SPACE(kMostDescriptors * sizeof(int))];
  iovec part{packet.bytes.data(), packet.bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(max_descriptors * sizeof(int));
  // These are copies, and what does not fit is none: the packet holds its own (unix_peek_fds(), net/unix/af_unix.c).
  const ssize_t got = Receive(fd, message, MSG_PEEK);
  if (got < 0) return errno == EAGAIN ? Received::kNothing : Received::kGone;
  for (cmsghdr* part_of = CMSG_FIRSTHDR(&message); part_of != nullptr; part_of = CMSG_NXTHDR(&message, part_of)) {
    if (part_of->cmsg_level != SOL_SOCKET || part_of->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part_of->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int received;
      std::memcpy(&received, CMSG_DATA(part_of) + i * sizeof received, sizeof received);
      packet.descriptors.emplace_back(received);
    }
  }
  const bool starved = (message.msg_flags & MSG_CTRUNC) != 0 && packet.descriptors.size() < max_descriptors;
  if (starved || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    packet.descriptors.clear();
    return starved ? Received::kStarved : Received::kBroken;
  }
  // An empty packet and the end look the same; no message is empty.
  if (got == 0) {
    packet.descriptors.clear();
    return Received::kGone;
  }
  msghdr nothing{};
  if (Receive(fd, nothing, 0) < 0) return Received::kGone;
  packet.bytes.resize(static_cast<size_t>(got));
  return Received::kPacket;
}

Sent SendPacket(int fd, std::span<const char> bytes, std::span<const int> descriptors) {
  alignas(cmsghdr) char control[CMSG_SPACE(kMostDescriptors * sizeof(int))] = {};
  if (descriptors.size() > kMostDescriptors) abort();  // no message of ours has so many
  iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size_bytes());
  }
  while (sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
    if (errno == EAGAIN) return Sent::kFull;
    // ETOOMANYREFS: more descriptors of this user are on their way than it may have open; they arrive by and by. The
    // socket is writable meanwhile (too_many_unix_fds(), net/core/scm.c).
    if (errno == ETOOMANYREFS || errno == ENOBUFS) return Sent::kLater;
    if (errno != EINTR) return Sent::kGone;
  }
  return Sent::kSent;
}

absl::StatusOr<sys::UniqueFd> ListenPackets(const std::string& path, int type, mode_t mode) {
  HK_ASSIGN_OR_RETURN(sockaddr_un address, AddressOf(path));
  if (absl::StatusOr<sys::UniqueFd> other = ConnectUnix(path, type); other.ok()) {
    return absl::FailedPreconditionError(fmt::format("another process serves '{}'", path));
  }
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  sys::UniqueFd fd(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoToStatus(errno, "make a socket");
  unlink(path.c_str());
  // Bound before it has its mode, but nobody can connect before listen().
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || chmod(path.c_str(), mode) != 0 ||
      listen(fd.get(), 1024) != 0) {
    return ErrnoToStatus(errno, fmt::format("listen on '{}'", path));
  }
  return fd;
}

absl::StatusOr<sys::UniqueFd> ConnectUnix(const std::string& path, int type) {
  HK_ASSIGN_OR_RETURN(sockaddr_un address, AddressOf(path));
  sys::UniqueFd fd(socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoToStatus(errno, "make a socket");
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return ErrnoToStatus(errno, fmt::format("connect to '{}'", path));
  }
  return fd;
}

}  // namespace heterok8s::heterosock::agent
