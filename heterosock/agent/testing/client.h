// A library without a library: speaks heterosock/protocol with a real agent over real sockets, for tests.
//
// Threading: one thread. Errors: as Status; nothing waits longer than kPatience.
//
//   HK_ASSIGN_OR_RETURN(Client client, Client::Connect(path));
//   HK_RETURN_IF_ERROR(client.Offer(1, socket));
//   HK_ASSIGN_OR_RETURN(Packet answer, client.Next());
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "common/status/status.h"
#include "common/sys/unique_fd.h"
#include "heterosock/agent/agent.h"
#include "heterosock/agent/packet.h"
#include "heterosock/protocol/messages.h"
#include "heterosock/protocol/parse.h"

namespace heterok8s::heterosock::agent::testing {

constexpr std::chrono::seconds kPatience{20};

class Client {
 public:
  // Says HELLO and waits for WELCOME.
  static absl::StatusOr<Client> Connect(const std::string& path);
  // Says nothing.
  static absl::StatusOr<Client> ConnectSilently(const std::string& path);

  absl::Status Offer(uint64_t offer_id, int socket);
  absl::Status Release(uint64_t channel_id, protocol::Reason reason);
  absl::Status Resume(const protocol::Paired& paired, int socket, int memory);
  absl::Status SendBytes(std::string bytes, const std::vector<int>& descriptors);

  // The next packet; kUnavailable when the agent closed, kDeadlineExceeded after kPatience.
  absl::StatusOr<Packet> Next();
  template <typename T>
  absl::StatusOr<std::pair<T, Packet>> Await() {
    HK_ASSIGN_OR_RETURN(Packet packet, Next());
    T message;
    if (!protocol::Parse(packet.bytes.data(), packet.bytes.size(), packet.descriptors.size(), message)) {
      return absl::InternalError("the agent sent a message of another type: " +
                                 std::to_string(protocol::TypeOf(packet.bytes.data(), packet.bytes.size())));
    }
    return std::pair<T, Packet>(message, std::move(packet));
  }
  const protocol::Welcome& welcome() const { return welcome_; }
  int fd() const { return fd_.get(); }

 private:
  template <typename T>
  absl::Status Say(const T& message, const std::vector<int>& descriptors) {
    return SendBytes(std::string(reinterpret_cast<const char*>(&message), sizeof message), descriptors);
  }
  sys::UniqueFd fd_;
  protocol::Welcome welcome_{};
};

// An established TCP connection over loopback in the current network namespace.
struct Connection {
  sys::UniqueFd client, server;
};
absl::StatusOr<Connection> MakeConnection(const std::string& listen_address = "127.0.0.1");
// One whose client, closed by its last holder, waits for minutes: unsent data and a peer that does not read.
absl::StatusOr<Connection> MakeLingering();
// A listening socket, and the port it got.
absl::StatusOr<std::pair<sys::UniqueFd, uint16_t>> ListenTcp(const std::string& address);
absl::StatusOr<sys::UniqueFd> ConnectTcp(const std::string& address, uint16_t port);
absl::StatusOr<sys::UniqueFd> AcceptTcp(int listener);

// An agent on a thread of its own, in a folder of its own.
class RunningAgent {
 public:
  static absl::StatusOr<std::unique_ptr<RunningAgent>> Start(Agent::Options options);
  ~RunningAgent();
  const std::string& socket() const { return socket_; }
  // Its status, from its own thread.
  std::string StatusText();
  Agent& agent() { return *agent_; }
  // The agent does nothing until what this returns is destroyed; it is idle when this returns.
  std::shared_ptr<void> Hold();

 private:
  RunningAgent() = default;
  std::string folder_, socket_;
  std::unique_ptr<Agent> agent_;
  struct Thread;
  std::shared_ptr<Thread> thread_;
};
// What the agent says to this on its admin socket, until it closes; "" when it does not listen.
std::string Ask(const std::string& admin, const std::string& request);
// A fresh folder for sockets, removed by RunningAgent.
std::string MakeFolder();

}  // namespace heterok8s::heterosock::agent::testing
