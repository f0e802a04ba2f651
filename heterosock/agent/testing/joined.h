// What the agent's tests have in common: two libraries that are joined, and waiting for what the agent's status says.
//
// Threading: one thread. Ownership: values. Errors: as Status; nothing waits longer than kPatience.
//
//   auto agent = RunningAgent::Start(Patient());
//   HK_ASSIGN_OR_RETURN(Joined joined, Join(client, server));
//   CHECK(Becomes(*agent, ChannelsAre(1)));
#pragma once

#include <poll.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "heterosock/agent/testing/client.h"

namespace heterok8s::heterosock::agent::testing {

inline Agent::Options Quick() {
  Agent::Options options;
  options.ring_bytes = 65536;
  options.offer_deadline = std::chrono::milliseconds(100);
  return options;
}

// For tests in which the other end does come.
inline Agent::Options Patient() {
  Agent::Options options = Quick();
  options.offer_deadline = kPatience;
  return options;
}

// Waits until the agent's status is as wanted; it learns of closed sockets when it gets to them.
template <typename Wanted>
bool Becomes(RunningAgent& agent, Wanted wanted) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (std::chrono::steady_clock::now() < end) {
    if (wanted(nlohmann::json::parse(agent.StatusText()))) return true;
    poll(nullptr, 0, 5);
  }
  return false;
}

inline auto ChannelsAre(size_t count) {
  return [count](const nlohmann::json& status) { return status["channels"].size() == count; };
}

struct Joined {
  Connection connection;
  std::pair<protocol::Paired, Packet> client, server;
};
inline absl::StatusOr<Joined> Join(Client& client, Client& server, uint64_t offer_id = 1,
                                   const std::string& address = "127.0.0.1") {
  Joined joined;
  HK_ASSIGN_OR_RETURN(joined.connection, MakeConnection(address));
  HK_RETURN_IF_ERROR(client.Offer(offer_id, joined.connection.client.get()));
  HK_RETURN_IF_ERROR(server.Offer(offer_id, joined.connection.server.get()));
  HK_ASSIGN_OR_RETURN(joined.client, client.Await<protocol::Paired>());
  HK_ASSIGN_OR_RETURN(joined.server, server.Await<protocol::Paired>());
  return joined;
}

}  // namespace heterok8s::heterosock::agent::testing
