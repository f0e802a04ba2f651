#include "heterosock/tests/letter.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "heterosock/protocol/messages.h"

namespace heterok8s::heterosock::behaviour {

void Letter::Discard() {
  for (int fd : descriptors) close(fd);
  descriptors.clear();
}

bool Read(int from, Letter* letter, bool* gone) {
  char bytes[protocol::kMaxMessageBytes];
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * protocol::kMaxDescriptors)];
  iovec part{bytes, sizeof bytes};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t n = recvmsg(from, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  *gone = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
  if (n <= 0) return false;
  letter->bytes.assign(bytes, static_cast<size_t>(n));
  for (cmsghdr* each = CMSG_FIRSTHDR(&message); each; each = CMSG_NXTHDR(&message, each)) {
    if (each->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (each->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    letter->descriptors.resize(count);
    std::memcpy(letter->descriptors.data(), CMSG_DATA(each), count * sizeof(int));
  }
  return true;
}

bool Write(int to, Letter& letter) {
  iovec part{letter.bytes.data(), letter.bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * protocol::kMaxDescriptors)] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!letter.descriptors.empty()) {
    size_t size = letter.descriptors.size() * sizeof(int);
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(size);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(size);
    std::memcpy(CMSG_DATA(header), letter.descriptors.data(), size);
  }
  if (sendmsg(to, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && (errno == EAGAIN || errno == ENOBUFS)) return false;
  letter.Discard();  // one that is gone hears nothing; reading tells us
  return true;
}

sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  return address;
}

int Connect(const std::string& path) {
  const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const sockaddr_un address = AddressOf(path);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
  close(fd);
  return -1;
}

}  // namespace heterok8s::heterosock::behaviour
