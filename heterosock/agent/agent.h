// heterosockd without its main(): brings the two ends of a TCP connection together and counts what they do.
//
// Purpose: libraries connect to its socket and offer connections (heterosock/protocol); it finds the two ends of each,
// asks the policy, and gives both the same memory and a bell each. Afterwards the data needs it no more: when it dies,
// channels go on, and libraries tell the next one what they hold.
// Threading: everything happens on the thread in Run(). Post() and Stop() may be called from any thread. Ownership: the
// agent owns its sockets; a TokenReader is borrowed and must outlive it.
// Errors: Start: what is wrong with a path or the configuration. Run: only what makes going on impossible.
//
//   HK_ASSIGN_OR_RETURN(std::unique_ptr<Agent> agent, Agent::Start(std::move(options)));
//   HK_RETURN_IF_ERROR(agent->Run());
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "common/status/status.h"
#include "heterosock/agent/credits.h"
#include "heterosock/agent/policy.h"

namespace heterok8s::heterosock::agent {

// Tells ends of one connection by what its SYN carried; see token.h.
class TokenReader {
 public:
  virtual ~TokenReader() = default;
  struct Token {
    uint64_t value = 0;  // 0: none
    bool connected = false;
  };
  virtual Token Read(int socket) const = 0;
};

struct Mechanism {
  std::string name, active, detail;  // one line of `heterosockctl status`
};

class Agent {
 public:
  struct Options {
    std::string socket;     // for libraries
    std::string admin;      // for heterosockctl; empty: none
    std::string pu_listen;  // for the other PU's agent; at most one of the two
    std::string pu_connect;
    std::chrono::milliseconds offer_deadline{2000};
    uint32_t ring_bytes = 1 << 20;      // of each direction: 128 KiB would lose 40 % of the bandwidth
    uint32_t max_pending_offers = 256;  // of one process
    uint32_t max_channels = 20000;      // of one process
    uint32_t max_processes = 4096;      // of one domain
    Credits::Limits credits;
    Policy policy;
    const TokenReader* tokens = nullptr;
    bool believe_addresses = false;     // of sockets in two network namespaces; see pairing.h
    std::vector<Mechanism> mechanisms;  // what the caller chose; the agent adds its own
  };
  static absl::StatusOr<std::unique_ptr<Agent>> Start(Options options);
  ~Agent();

  absl::Status Run();
  void Stop();
  void Post(std::function<void(Agent&)> task);

  // On the thread of Run() only, as are all tasks.
  void SetPolicy(Policy policy);  // channels that it forbids go back to TCP
  nlohmann::json Status();        // reads all channels: for tests; who asks by the admin socket is told piece by piece
  nlohmann::json Totals();        // bytes are as of when this was last asked, but for the first channels

 private:
  class Impl;
  explicit Agent(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace heterok8s::heterosock::agent
