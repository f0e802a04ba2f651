#include "common/netlink/libnl_netlink.h"

#include <fmt/format.h>
#include <linux/ethtool.h>
#include <linux/fib_rules.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <functional>

#include "common/netlink/decode.h"
#include "common/netlink/encode.h"

namespace heterok8s::netlink {
namespace {

using NlSocket = sys::CHandle<nl_sock, nl_socket_free>;

constexpr timeval kAnswerTimeout{.tv_sec = 10, .tv_usec = 0};
constexpr size_t kReceiveBytes = 64 * 1024;  // dumps come in pieces of at most 32 KiB
constexpr size_t kMaxSendBytes = 24 * 1024;  // one send must fit the socket's send buffer
constexpr int kMaxDumpAttempts = 5;
constexpr uint32_t kExtMask = RTEXT_FILTER_SKIP_STATS;

// Some errno values mean more to rtnetlink than their general text says.
absl::Status StatusOfErrno(int error, const std::string& what, const std::string& kernel_says) {
  std::string context = kernel_says.empty() ? what : fmt::format("{} ({})", what, kernel_says);
  if (error == EADDRNOTAVAIL) return absl::NotFoundError(fmt::format("{}: no such address", context));
  return ErrnoToStatus(error, context);
}

// The kernel's own explanation in an error message (NETLINK_EXT_ACK), or "".
std::string ExtendedAck(nlmsghdr* message, const nlmsgerr* error) {
  if ((message->nlmsg_flags & NLM_F_ACK_TLVS) == 0) return "";
  size_t offset = sizeof *error;
  if ((message->nlmsg_flags & NLM_F_CAPPED) == 0) offset += error->msg.nlmsg_len - sizeof(nlmsghdr);
  if (NLMSG_HDRLEN + offset >= message->nlmsg_len) return "";
  nlattr* table[NLMSGERR_ATTR_MAX + 1] = {};
  auto* head = reinterpret_cast<nlattr*>(static_cast<char*>(nlmsg_data(message)) + NLMSG_ALIGN(offset));
  nla_parse(table, NLMSGERR_ATTR_MAX, head, static_cast<int>(message->nlmsg_len - NLMSG_HDRLEN - offset), nullptr);
  return table[NLMSGERR_ATTR_MSG] != nullptr ? nla_get_string(table[NLMSGERR_ATTR_MSG]) : "";
}

class LibnlNetlink : public Netlink {
 public:
  explicit LibnlNetlink(NlSocket socket) : socket_(std::move(socket)), buffer_(kReceiveBytes) {}

  absl::StatusOr<std::vector<Link>> Links() override;
  absl::StatusOr<Link> FindLink(const std::string& name) override;
  absl::StatusOr<std::vector<Address>> Addresses(int link) override;
  absl::StatusOr<std::vector<Route>> Routes(uint32_t table, int link, std::optional<Family> family) override;
  absl::StatusOr<std::vector<Rule>> Rules(Family family) override;
  absl::StatusOr<std::vector<Neighbor>> Neighbors(int link) override;
  absl::StatusOr<Shaping> ShapingOf(int link) override;
  absl::Status SyncCarrier(const std::string& name) override;
  absl::Status Apply(const Batch& batch) override;

 private:
  struct Pending {
    Request request;
    const Batch::Item* item;
  };
  using OnMessage = std::function<void(nlmsghdr*)>;
  // Called for each error answer: sequence number, errno, the kernel's explanation. Returns true when it was the last.
  using OnError = std::function<bool(uint32_t, int, const std::string&)>;

  int fd() const { return nl_socket_get_fd(socket_.get()); }
  absl::Status Send(const std::vector<Pending>& requests, size_t first, size_t end);
  absl::Status SendAndCollect(const std::vector<Pending>& requests, size_t first, size_t end, absl::Status& failure);
  // One datagram. Acknowledgements and errors go to `on_error`, the rest to `on_message`. True when `on_error` or the
  // end of a dump said so.
  absl::StatusOr<bool> Receive(const std::string& what, const OnMessage& on_message, const OnError& on_error);
  // One request whose answer ends with an acknowledgement, a failure or the end of a dump.
  // With `error_number` a failure's errno is stored there, for whom the code is not exact enough.
  absl::Status Query(Request request, const std::string& what, const OnMessage& on_message,
                     int* error_number = nullptr);
  absl::Status Dump(const std::function<Request()>& make, const std::string& what, const std::function<void()>& restart,
                    const OnMessage& on_message);
  template <typename T, typename Decode, typename Keep>
  absl::StatusOr<std::vector<T>> DumpAll(const std::function<Request()>& make, const std::string& what, Decode decode,
                                         Keep keep);

  NlSocket socket_;
  std::vector<char> buffer_;
  bool dump_interrupted_ = false;
};

template <typename Header>
Request MakeRequest(int type, int flags, Header header) {
  std::vector<Request> one;
  NewRequest(one, type, flags, header);
  return std::move(one.front());
}

absl::Status LibnlNetlink::Send(const std::vector<Pending>& requests, size_t first, size_t end) {
  std::vector<iovec> pieces;
  for (size_t i = first; i < end; ++i) {
    nlmsghdr* header = nlmsg_hdr(requests[i].request.message.get());
    header->nlmsg_seq = nl_socket_use_seq(socket_.get());
    // Failures are always answered; a success only where it is asked for, so one acknowledgement ends the batch.
    if (i + 1 == end) header->nlmsg_flags |= NLM_F_ACK;
    pieces.push_back({header, NLMSG_ALIGN(header->nlmsg_len)});
  }
  sockaddr_nl kernel{};
  kernel.nl_family = AF_NETLINK;
  msghdr message{};
  message.msg_name = &kernel;
  message.msg_namelen = sizeof kernel;
  message.msg_iov = pieces.data();
  message.msg_iovlen = pieces.size();
  if (sendmsg(fd(), &message, 0) < 0) return ErrnoToStatus(errno, "send to netlink");
  return absl::OkStatus();
}

absl::StatusOr<bool> LibnlNetlink::Receive(const std::string& what, const OnMessage& on_message,
                                           const OnError& on_error) {
  ssize_t length = recv(fd(), buffer_.data(), buffer_.size(), 0);
  if (length < 0) {
    if (errno == EINTR) return false;
    if (errno == EAGAIN) return absl::DeadlineExceededError(fmt::format("{}: no answer from the kernel", what));
    return ErrnoToStatus(errno, what);
  }
  bool last = false;
  int rest = static_cast<int>(length);
  for (auto* message = reinterpret_cast<nlmsghdr*>(buffer_.data()); nlmsg_ok(message, rest);
       message = nlmsg_next(message, &rest)) {
    if ((message->nlmsg_flags & NLM_F_DUMP_INTR) != 0) dump_interrupted_ = true;
    if (message->nlmsg_type == NLMSG_ERROR) {
      const auto* error = static_cast<const nlmsgerr*>(nlmsg_data(message));
      last |= on_error(message->nlmsg_seq, -error->error, ExtendedAck(message, error));
    } else if (message->nlmsg_type == NLMSG_DONE) {
      // A dump that failed half-way says so here.
      int code = nlmsg_datalen(message) >= static_cast<int>(sizeof(int)) ? *static_cast<int*>(nlmsg_data(message)) : 0;
      on_error(message->nlmsg_seq, code < 0 ? -code : 0, "");
      last = true;
    } else {
      on_message(message);
    }
  }
  return last;
}

absl::Status LibnlNetlink::Query(Request request, const std::string& what, const OnMessage& on_message,
                                 int* error_number) {
  std::vector<Pending> one;
  one.push_back({std::move(request), nullptr});
  HK_RETURN_IF_ERROR(Annotate(Send(one, 0, 1), what));
  absl::Status result;
  for (bool last = false; !last;) {
    HK_ASSIGN_OR_RETURN(last, Receive(what, on_message, [&](uint32_t, int error, const std::string& says) {
                          if (error != 0) result = StatusOfErrno(error, what, says);
                          if (error_number != nullptr) *error_number = error;
                          return true;
                        }));
  }
  return result;
}

absl::Status LibnlNetlink::Dump(const std::function<Request()>& make, const std::string& what,
                                const std::function<void()>& restart, const OnMessage& on_message) {
  // Kernels set NLM_F_DUMP_INTR when objects change during a dump; the list is then unusable, so we start over.
  for (int attempt = 0; attempt < kMaxDumpAttempts; ++attempt) {
    restart();
    dump_interrupted_ = false;
    Request request = make();
    nlmsg_hdr(request.message.get())->nlmsg_flags |= NLM_F_DUMP;
    absl::Status result = Query(std::move(request), what, on_message);
    if (!dump_interrupted_) return result;
  }
  return absl::UnavailableError(fmt::format("{}: changed during each of {} attempts", what, kMaxDumpAttempts));
}

template <typename T, typename Decode, typename Keep>
absl::StatusOr<std::vector<T>> LibnlNetlink::DumpAll(const std::function<Request()>& make, const std::string& what,
                                                     Decode decode, Keep keep) {
  std::vector<T> all;
  HK_RETURN_IF_ERROR(Dump(
      make, what, [&] { all.clear(); },
      [&](nlmsghdr* message) {
        std::optional<T> one = decode(message);
        if (one && keep(*one)) all.push_back(*std::move(one));
      }));
  return all;
}

absl::StatusOr<std::vector<Link>> LibnlNetlink::Links() {
  auto make = [] {
    Request request = MakeRequest(RTM_GETLINK, 0, ifinfomsg{});
    nla_put_u32(request.message.get(), IFLA_EXT_MASK, kExtMask);
    return request;
  };
  return DumpAll<Link>(make, "list links", DecodeLink, [](const Link&) { return true; });
}

absl::StatusOr<Link> LibnlNetlink::FindLink(const std::string& name) {
  std::string what = fmt::format("find link '{}'", name);
  if (name.empty() || name.size() >= IFNAMSIZ) return absl::NotFoundError(fmt::format("{}: no such name", what));
  Request request = MakeRequest(RTM_GETLINK, 0, ifinfomsg{});
  // An alternative name may be given here too: the kernel looks at both.
  nla_put_string(request.message.get(), IFLA_IFNAME, name.c_str());
  nla_put_u32(request.message.get(), IFLA_EXT_MASK, kExtMask);
  std::optional<Link> found;
  HK_RETURN_IF_ERROR(Query(std::move(request), what, [&](nlmsghdr* message) { found = DecodeLink(message); }));
  if (!found) return absl::InternalError(fmt::format("{}: the kernel answered without a link", what));
  return *std::move(found);
}

absl::StatusOr<std::vector<Address>> LibnlNetlink::Addresses(int link) {
  auto make = [&] {
    ifaddrmsg header{};
    header.ifa_index = link;
    return MakeRequest(RTM_GETADDR, 0, header);
  };
  return DumpAll<Address>(make, "list addresses", DecodeAddress,
                          [&](const Address& address) { return link == 0 || address.link == link; });
}

absl::StatusOr<std::vector<Route>> LibnlNetlink::Routes(uint32_t table, int link, std::optional<Family> only) {
  std::vector<Route> all;
  for (Family family : {Family::kV4, Family::kV6}) {
    if (only && *only != family) continue;
    auto make = [&] {
      rtmsg header{};
      header.rtm_family = static_cast<uint8_t>(FamilyNumber(family));
      Request request = MakeRequest(RTM_GETROUTE, 0, header);
      nla_put_u32(request.message.get(), RTA_TABLE, table);
      if (link != 0) nla_put_u32(request.message.get(), RTA_OIF, link);
      return request;
    };
    std::vector<Route> routes;
    absl::Status listed = Dump(
        make, fmt::format("list routes of table {}", table), [&] { routes.clear(); },
        [&](nlmsghdr* message) {
          for (Route& route : DecodeRoutes(message)) {
            if (route.table == table && (link == 0 || route.link == link)) routes.push_back(std::move(route));
          }
        });
    // The kernel makes a table with its first route and says ENOENT before that.
    if (absl::IsNotFound(listed)) continue;
    HK_RETURN_IF_ERROR(listed);
    all.insert(all.end(), routes.begin(), routes.end());
  }
  return all;
}

absl::StatusOr<std::vector<Rule>> LibnlNetlink::Rules(Family family) {
  auto make = [&] {
    fib_rule_hdr header{};
    header.family = static_cast<uint8_t>(FamilyNumber(family));
    return MakeRequest(RTM_GETRULE, 0, header);
  };
  return DumpAll<Rule>(make, "list rules", DecodeRule, [](const Rule&) { return true; });
}

absl::StatusOr<std::vector<Neighbor>> LibnlNetlink::Neighbors(int link) {
  auto make = [&] {
    Request request = MakeRequest(RTM_GETNEIGH, 0, ndmsg{});
    if (link != 0) nla_put_u32(request.message.get(), NDA_IFINDEX, link);
    return request;
  };
  return DumpAll<Neighbor>(make, "list neighbours", DecodeNeighbor,
                           [&](const Neighbor& neighbor) { return link == 0 || neighbor.link == link; });
}

absl::StatusOr<Shaping> LibnlNetlink::ShapingOf(int link) {
  Shaping shaping;
  tcmsg root{};
  root.tcm_ifindex = link;
  root.tcm_parent = TC_H_ROOT;
  int error = 0;
  // Without NLM_F_ECHO the kernel answers this question to listeners only.
  absl::Status status = Query(
      MakeRequest(RTM_GETQDISC, NLM_F_ECHO, root), fmt::format("read the queue of link {}", link),
      [&](nlmsghdr* message) { shaping.root = DecodeTbf(message); }, &error);
  // ENOENT is a link without a queue of its own, ENODEV no link.
  if (!status.ok() && error != ENOENT) return status;
  auto make = [&] {
    tcmsg header{};
    header.tcm_ifindex = link;
    header.tcm_parent = 0xffff0000;
    return MakeRequest(RTM_GETTFILTER, 0, header);
  };
  HK_RETURN_IF_ERROR(Dump(
      make, fmt::format("read the redirect of link {}", link), [&] { shaping.redirect.reset(); },
      [&](nlmsghdr* message) {
        if (auto to = DecodeRedirect(message)) shaping.redirect = to;
      }));
  return shaping;
}

absl::Status LibnlNetlink::SyncCarrier(const std::string& name) {
  ethtool_value value{.cmd = ETHTOOL_GLINK};
  ifreq request{};
  name.copy(request.ifr_name, sizeof request.ifr_name - 1);
  request.ifr_data = reinterpret_cast<char*>(&value);
  // Of all ways to ask for a link's state, this one has the kernel bring it up to date first. A netlink socket takes
  // device requests like any other, in its own namespace.
  if (ioctl(fd(), SIOCETHTOOL, &request) != 0) {
    return ErrnoToStatus(errno, fmt::format("read the carrier of link '{}'", name));
  }
  return absl::OkStatus();
}

absl::Status LibnlNetlink::Apply(const Batch& batch) {
  absl::Status failure;  // the first one
  std::vector<Pending> requests;
  for (const Batch::Item& item : batch.items()) {
    std::vector<Request> encoded;
    absl::Status status = Encode(item.change, encoded);
    if (!status.ok()) {
      if (failure.ok() && status.code() != item.tolerated) failure = Annotate(status, Describe(item.change));
      continue;
    }
    for (Request& request : encoded) requests.push_back({std::move(request), &item});
  }
  for (size_t first = 0; first < requests.size();) {
    size_t end = first, bytes = 0;
    do {
      bytes += NLMSG_ALIGN(nlmsg_hdr(requests[end].request.message.get())->nlmsg_len);
      ++end;
    } while (end < requests.size() && bytes < kMaxSendBytes);
    HK_RETURN_IF_ERROR(SendAndCollect(requests, first, end, failure));
    first = end;
  }
  return failure;
}

absl::Status LibnlNetlink::SendAndCollect(const std::vector<Pending>& requests, size_t first, size_t end,
                                          absl::Status& failure) {
  HK_RETURN_IF_ERROR(Annotate(Send(requests, first, end), Describe(requests[first].item->change)));
  uint32_t first_seq = nlmsg_hdr(requests[first].request.message.get())->nlmsg_seq;
  auto on_error = [&](uint32_t seq, int error, const std::string& says) {
    size_t index = first + (seq - first_seq);
    if (index >= end) return false;  // an answer to a question that was given up
    const Pending& pending = requests[index];
    if (error != 0 && !(error == EEXIST && pending.request.exists_ok)) {
      absl::Status status = StatusOfErrno(error, Describe(pending.item->change), says);
      if (failure.ok() && status.code() != pending.item->tolerated) failure = status;
    }
    return index + 1 == end;
  };
  for (bool last = false; !last;) {
    HK_ASSIGN_OR_RETURN(last, Receive(
                                  "apply changes", [](nlmsghdr*) {}, on_error));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Netlink>> OpenNetlink() {
  NlSocket socket(nl_socket_alloc());
  if (socket == nullptr) return absl::ResourceExhaustedError("open netlink: out of memory");
  if (int error = nl_connect(socket.get(), NETLINK_ROUTE); error != 0) {
    return absl::InternalError(fmt::format("open netlink: {}", nl_geterror(error)));
  }
  int fd = nl_socket_get_fd(socket.get());
  int on = 1;
  // Strict checking lets the kernel filter dumps by link and table; the other two make its answers short and clear.
  if (setsockopt(fd, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof on) != 0 ||
      setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on) != 0 ||
      setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on) != 0 ||
      setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &kAnswerTimeout, sizeof kAnswerTimeout) != 0) {
    return ErrnoToStatus(errno, "configure netlink socket");
  }
  return std::unique_ptr<Netlink>(std::make_unique<LibnlNetlink>(std::move(socket)));
}

absl::StatusOr<std::unique_ptr<Netlink>> OpenNetlinkIn(const sys::NetnsRef& netns) {
  std::unique_ptr<Netlink> netlink;
  HK_RETURN_IF_ERROR(sys::InNetns(netns, [&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(netlink, OpenNetlink());
    return absl::OkStatus();
  }));
  return netlink;
}

}  // namespace heterok8s::netlink
