#include "common/netfilter/nfnetlink.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <cstring>

namespace heterok8s::netfilter {
namespace {

constexpr time_t kAnswerSeconds = 2;  // the kernel answers at once or not at all
constexpr size_t kReadBytes = 64 << 10;
constexpr size_t kUsualBytes = 64 << 10;

}  // namespace

NfMessage::NfMessage(uint16_t type, uint16_t flags, uint8_t family, uint16_t resource) {
  nlmsghdr header{.nlmsg_type = type, .nlmsg_flags = flags};
  nfgenmsg generic{.nfgen_family = family, .version = NFNETLINK_V0, .res_id = htons(resource)};
  bytes_.append(reinterpret_cast<const char*>(&header), sizeof header);
  bytes_.append(reinterpret_cast<const char*>(&generic), sizeof generic);
}

void NfMessage::Put(uint16_t attribute, const void* data, size_t bytes) {
  nlattr header{.nla_len = static_cast<uint16_t>(NLA_HDRLEN + bytes), .nla_type = attribute};
  bytes_.append(reinterpret_cast<const char*>(&header), sizeof header);
  bytes_.append(static_cast<const char*>(data), bytes);
  bytes_.resize(NLMSG_ALIGN(bytes_.size()));
}

void NfMessage::Put(uint16_t attribute, std::string_view text) {
  std::string terminated(text);
  Put(attribute, terminated.c_str(), terminated.size() + 1);
}

size_t NfMessage::Open(uint16_t attribute) {
  size_t opened = bytes_.size();
  Put(attribute | NLA_F_NESTED, nullptr, 0);
  return opened;
}

void NfMessage::Close(size_t opened) {
  uint16_t length = static_cast<uint16_t>(bytes_.size() - opened);
  std::memcpy(bytes_.data() + opened + offsetof(nlattr, nla_len), &length, sizeof length);
}

const std::string& NfMessage::Bytes() {
  uint32_t length = static_cast<uint32_t>(bytes_.size());
  std::memcpy(bytes_.data() + offsetof(nlmsghdr, nlmsg_len), &length, sizeof length);
  return bytes_;
}

void EachAttribute(std::string_view attributes, const std::function<void(uint16_t, std::string_view)>& fn) {
  while (attributes.size() >= NLA_HDRLEN) {
    nlattr header;
    std::memcpy(&header, attributes.data(), sizeof header);
    if (header.nla_len < NLA_HDRLEN || header.nla_len > attributes.size()) return;
    fn(header.nla_type & NLA_TYPE_MASK, attributes.substr(NLA_HDRLEN, header.nla_len - NLA_HDRLEN));
    attributes.remove_prefix(std::min<size_t>(NLA_ALIGN(header.nla_len), attributes.size()));
  }
}

absl::StatusOr<NfSocket> NfSocket::Open() {
  sys::UniqueFd fd(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
  if (!fd.valid()) return ErrnoToStatus(errno, "open a netfilter netlink socket");
  timeval deadline{.tv_sec = kAnswerSeconds, .tv_usec = 0};
  int on = 1;
  // Without CAP_ACK an error quotes the message that caused it, and a batch's errors do not fit into the buffer.
  if (setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &deadline, sizeof deadline) != 0 ||
      setsockopt(fd.get(), SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on) != 0) {
    return ErrnoToStatus(errno, "prepare a netfilter netlink socket");
  }
  return NfSocket(std::move(fd));
}

// A batch that fails is answered once for each message that the kernel did not like; who asked read the first.
void NfSocket::DropAnswers() {
  char answer[256];
  while (recv(fd_.get(), answer, sizeof answer, MSG_DONTWAIT | MSG_TRUNC) > 0) {
  }
}

absl::Status NfSocket::Request(const std::string& bytes, std::string_view what) {
  DropAnswers();
  if (bytes.size() > kUsualBytes) {  // a message has to fit into the send buffer, with its bookkeeping
    int room = static_cast<int>(2 * bytes.size());
    if (setsockopt(fd_.get(), SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room) != 0) return ErrnoToStatus(errno, what);
  }
  sockaddr_nl kernel{.nl_family = AF_NETLINK};
  if (sendto(fd_.get(), bytes.data(), bytes.size(), 0, reinterpret_cast<sockaddr*>(&kernel), sizeof kernel) < 0) {
    return ErrnoToStatus(errno, what);
  }
  return Read(what, [&](const nlmsghdr& message, absl::Status* result) {
    if (message.nlmsg_type != NLMSG_ERROR) return false;
    const auto* answer = reinterpret_cast<const nlmsgerr*>(NLMSG_DATA(&message));
    if (answer->error == 0) return true;
    const uint32_t number = answer->msg.nlmsg_seq;
    *result = ErrnoToStatus(-answer->error, number == 0 ? std::string(what) : fmt::format("{} {}", what, number));
    return true;
  });
}

absl::Status NfSocket::Dump(const std::string& bytes, std::string_view what,
                            const std::function<void(std::string_view)>& fn) {
  sockaddr_nl kernel{.nl_family = AF_NETLINK};
  if (sendto(fd_.get(), bytes.data(), bytes.size(), 0, reinterpret_cast<sockaddr*>(&kernel), sizeof kernel) < 0) {
    return ErrnoToStatus(errno, what);
  }
  return Read(what, [&](const nlmsghdr& message, absl::Status* result) {
    if (message.nlmsg_type == NLMSG_DONE) return true;
    if (message.nlmsg_type == NLMSG_ERROR) {
      int error = reinterpret_cast<const nlmsgerr*>(NLMSG_DATA(&message))->error;
      *result = ErrnoToStatus(-error, what);
      return true;
    }
    constexpr size_t kHeader = NLMSG_LENGTH(sizeof(nfgenmsg));
    if (message.nlmsg_len >= kHeader) {
      fn({reinterpret_cast<const char*>(&message) + kHeader, message.nlmsg_len - kHeader});
    }
    return false;
  });
}

absl::Status NfSocket::Read(std::string_view what, const std::function<bool(const nlmsghdr&, absl::Status*)>& fn) {
  std::vector<uint32_t> buffer(kReadBytes / sizeof(uint32_t));  // aligned for nlmsghdr
  while (true) {
    ssize_t n = recv(fd_.get(), buffer.data(), kReadBytes, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return absl::DeadlineExceededError(fmt::format("{}: no answer", what));
    if (n < 0) return ErrnoToStatus(errno, what);
    auto left = static_cast<uint32_t>(n);
    auto* message = reinterpret_cast<const nlmsghdr*>(buffer.data());
    for (; NLMSG_OK(message, left); message = NLMSG_NEXT(message, left)) {
      absl::Status result;
      if (fn(*message, &result)) return result;
    }
  }
}

}  // namespace heterok8s::netfilter
