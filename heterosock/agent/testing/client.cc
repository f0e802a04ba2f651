#include "heterosock/agent/testing/client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "heterosock/layout/channel.h"

namespace heterok8s::heterosock::agent::testing {
namespace {

constexpr int kPatienceMs = std::chrono::milliseconds(kPatience).count();

sockaddr_storage Name(const std::string& address, uint16_t port, socklen_t& length) {
  sockaddr_storage name{};
  if (address.find(':') == std::string::npos) {
    auto& v4 = reinterpret_cast<sockaddr_in&>(name);
    v4.sin_family = AF_INET;
    v4.sin_port = htons(port);
    inet_pton(AF_INET, address.c_str(), &v4.sin_addr);
    length = sizeof v4;
  } else {
    auto& v6 = reinterpret_cast<sockaddr_in6&>(name);
    v6.sin6_family = AF_INET6;
    v6.sin6_port = htons(port);
    inet_pton(AF_INET6, address.c_str(), &v6.sin6_addr);
    length = sizeof v6;
  }
  return name;
}

bool WaitReadable(int fd) {
  pollfd p{fd, POLLIN, 0};
  return poll(&p, 1, kPatienceMs) == 1;
}

}  // namespace

absl::StatusOr<Client> Client::ConnectSilently(const std::string& path) {
  Client client;
  HK_ASSIGN_OR_RETURN(client.fd_, ConnectUnix(path, SOCK_SEQPACKET));
  return client;
}

absl::StatusOr<Client> Client::Connect(const std::string& path) {
  HK_ASSIGN_OR_RETURN(Client client, ConnectSilently(path));
  protocol::Hello hello = protocol::Make<protocol::Hello>();
  hello.version_min = hello.version_max = protocol::kVersion;
  hello.layout_version = layout::kChannelVersion;
  HK_RETURN_IF_ERROR(client.Say(hello, {}));
  auto welcome = client.Await<protocol::Welcome>();
  HK_RETURN_IF_ERROR(welcome.status());
  client.welcome_ = welcome->first;
  return client;
}

absl::Status Client::SendBytes(std::string bytes, const std::vector<int>& descriptors) {
  return SendPacket(fd_.get(), bytes, descriptors) == Sent::kSent ? absl::OkStatus()
                                                                  : absl::UnavailableError("the agent takes no packet");
}

absl::Status Client::Offer(uint64_t offer_id, int socket) {
  protocol::Offer offer = protocol::Make<protocol::Offer>();
  offer.offer_id = offer_id;
  return Say(offer, {socket});
}

absl::Status Client::Release(uint64_t channel_id, protocol::Reason reason) {
  protocol::Release release = protocol::Make<protocol::Release>();
  release.channel_id = channel_id;
  release.reason = static_cast<uint32_t>(reason);
  return Say(release, {});
}

absl::Status Client::Resume(const protocol::Paired& paired, int socket, int memory) {
  protocol::Resume resume = protocol::Make<protocol::Resume>();
  resume.channel_id = paired.channel_id;
  resume.epoch = paired.epoch;
  resume.nonce = paired.nonce;
  resume.side = paired.side;
  return Say(resume, {socket, memory});
}

absl::StatusOr<Packet> Client::Next() {
  Packet packet;
  while (true) {
    switch (ReceivePacket(fd_.get(), packet, protocol::kMaxMessageBytes, protocol::kMaxDescriptors)) {
      case Received::kPacket:
        return packet;
      case Received::kGone:
        return absl::UnavailableError("the agent closed the connection");
      case Received::kBroken:
        return absl::InternalError("the agent sent a broken packet");
      case Received::kStarved:
        return absl::ResourceExhaustedError("no descriptors are left for what the agent sends");
      case Received::kNothing:
        if (!WaitReadable(fd_.get())) return absl::DeadlineExceededError("the agent says nothing");
    }
  }
}

absl::StatusOr<std::pair<sys::UniqueFd, uint16_t>> ListenTcp(const std::string& address) {
  socklen_t length = 0;
  sockaddr_storage name = Name(address, 0, length);
  sys::UniqueFd fd(socket(name.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid() || bind(fd.get(), reinterpret_cast<sockaddr*>(&name), length) != 0 || listen(fd.get(), 16) != 0 ||
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(&name), &length) != 0) {
    return ErrnoToStatus(errno, "listen on " + address);
  }
  const uint16_t port = ntohs(name.ss_family == AF_INET ? reinterpret_cast<sockaddr_in&>(name).sin_port
                                                        : reinterpret_cast<sockaddr_in6&>(name).sin6_port);
  return std::pair<sys::UniqueFd, uint16_t>(std::move(fd), port);
}

absl::StatusOr<sys::UniqueFd> ConnectTcp(const std::string& address, uint16_t port) {
  socklen_t length = 0;
  sockaddr_storage name = Name(address, port, length);
  sys::UniqueFd fd(socket(name.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid() || connect(fd.get(), reinterpret_cast<sockaddr*>(&name), length) != 0) {
    return ErrnoToStatus(errno, "connect to " + address);
  }
  return fd;
}

absl::StatusOr<sys::UniqueFd> AcceptTcp(int listener) {
  if (!WaitReadable(listener)) return absl::DeadlineExceededError("nobody connects");
  sys::UniqueFd fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  if (!fd.valid()) return ErrnoToStatus(errno, "accept");
  return fd;
}

absl::StatusOr<Connection> MakeConnection(const std::string& listen_address) {
  auto listener = ListenTcp(listen_address);
  HK_RETURN_IF_ERROR(listener.status());
  Connection connection;
  HK_ASSIGN_OR_RETURN(connection.client, ConnectTcp(listen_address, listener->second));
  HK_ASSIGN_OR_RETURN(connection.server, AcceptTcp(listener->first.get()));
  return connection;
}

absl::StatusOr<Connection> MakeLingering() {
  HK_ASSIGN_OR_RETURN(Connection connection, MakeConnection());
  const linger patient{.l_onoff = 1, .l_linger = 600};
  setsockopt(connection.client.get(), SOL_SOCKET, SO_LINGER, &patient, sizeof patient);
  const int small = 4096;
  setsockopt(connection.client.get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
  setsockopt(connection.server.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
  const std::string piece(1 << 16, 'x');
  while (send(connection.client.get(), piece.data(), piece.size(), MSG_DONTWAIT) > 0) {
  }
  return connection;
}

struct RunningAgent::Thread {
  std::thread thread;
};

std::string Ask(const std::string& admin, const std::string& request) {
  auto fd = ConnectUnix(admin, SOCK_STREAM);
  if (!fd.ok() || send(fd->get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return "";
  std::string answer;
  char buffer[4096];
  pollfd p{fd->get(), POLLIN, 0};
  while (poll(&p, 1, std::chrono::milliseconds(kPatience).count()) == 1) {
    const ssize_t got = recv(fd->get(), buffer, sizeof buffer, 0);
    if (got <= 0) break;
    answer.append(buffer, static_cast<size_t>(got));
  }
  return answer;
}

std::string MakeFolder() {
  char folder[] = "/tmp/hk-heterosockd-XXXXXX";
  return mkdtemp(folder) != nullptr ? folder : "";
}

absl::StatusOr<std::unique_ptr<RunningAgent>> RunningAgent::Start(Agent::Options options) {
  std::unique_ptr<RunningAgent> running(new RunningAgent);
  running->folder_ = MakeFolder();
  if (running->folder_.empty()) return ErrnoToStatus(errno, "make a folder");
  if (options.socket.empty()) options.socket = running->folder_ + "/agent.sock";
  running->socket_ = options.socket;
  HK_ASSIGN_OR_RETURN(running->agent_, Agent::Start(std::move(options)));
  running->thread_ = std::make_shared<Thread>();
  running->thread_->thread = std::thread([agent = running->agent_.get()] { agent->Run().IgnoreError(); });
  return running;
}

RunningAgent::~RunningAgent() {
  if (thread_ != nullptr) {
    agent_->Stop();
    thread_->thread.join();
  }
  agent_.reset();
  std::error_code error;
  if (!folder_.empty()) std::filesystem::remove_all(folder_, error);
}

std::string RunningAgent::StatusText() {
  auto promise = std::make_shared<std::promise<std::string>>();
  std::future<std::string> text = promise->get_future();
  agent_->Post([promise](Agent& agent) { promise->set_value(agent.Status().dump()); });
  return text.wait_for(kPatience) == std::future_status::ready ? text.get() : "{}";
}

std::shared_ptr<void> RunningAgent::Hold() {
  auto held = std::make_shared<std::promise<void>>(), go = std::make_shared<std::promise<void>>();
  agent_->Post([held, go](Agent&) {
    held->set_value();
    go->get_future().wait();
  });
  held->get_future().wait();
  return std::shared_ptr<void>(nullptr, [go](void*) { go->set_value(); });
}

}  // namespace heterok8s::heterosock::agent::testing
