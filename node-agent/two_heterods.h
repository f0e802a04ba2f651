// Two heterods, each in a network namespace of its own, driven through the CNI binary: for tests.
//
//        namespace H                          namespace D
//   heterod --role=host  ── node0 ─ veth ─ node0 ──  heterod --role=dpu
//   192.0.2.1                                        192.0.2.2
//   pod-h (eth0 = xpu0) ─────────── link ─────────── pod-d (xpu0, eth0)
//
// Threading: one test thread. Ownership: everything has this process's id in its name and goes with the object.
// Errors: fail the running test.
//
//   TwoHeterods node;
//   node.Up();
//   node.NewPod("web");
//   REQUIRE(node.Cni("ADD", "web", /*split=*/true).contains("ips"));
#pragma once

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "common/sys/unique_fd.h"
#include "common/testing/eventually.h"
#include "common/testing/matchers.h"

namespace heterok8s::agent {

class TwoHeterods {
 public:
  TwoHeterods();
  // Not the constructor: what fails in there would leave everything behind. `mechanism`: ports.mechanism.
  void Up(const std::string& mechanism = "auto");
  ~TwoHeterods();

  // A DPU that is only slow, as every process of a busy machine is at times, must not be taken for lost. Before Up().
  std::chrono::milliseconds lease{10000};

  // Of the next start of both.
  void Configure(const std::string& mechanism);
  void Start(const std::string& role);
  void Spawn(const std::string& role);
  // All that were started: reconciled, and in touch with each other.
  void WaitReady();
  // Ends the daemon; its exit code, or 128 + signal.
  int Stop(const std::string& role, int signal_number);
  // /readyz of the agent, and the other PU alive as it sees it.
  bool Ready(const std::string& role);
  std::string Metric(const std::string& role, const std::string& name);

  std::string NewPod(const std::string& name);
  // A CNI call on the host; the answer of the plugin.
  nlohmann::json Cni(const std::string& command, const std::string& pod, bool split);
  // From the DPU's root namespace; again each second, because the end of a veth that came up first takes nothing until
  // the kernel's link watch has run.
  bool Pings(const std::string& address);
  // pod-d of the only split Pod.
  std::string PodD();
  size_t Links(const std::string& role);

  const std::string& dir() const { return dir_; }
  const std::string& id() const { return id_; }
  const std::string& bin() const { return bin_; }

 private:
  void WriteConfig(const std::string& role, const std::string& own, const std::string& other, const std::string& more);

  const std::string id_, dir_, bin_;
  std::map<std::string, pid_t> pids_;
};

// A TCP listener in `netns`, closed with its descriptor; or the errno of bind or listen.
absl::StatusOr<sys::UniqueFd> Listen(const std::string& netns, const std::string& address, uint16_t port);
absl::Status Connect(const std::string& netns, const std::string& address, uint16_t port);

}  // namespace heterok8s::agent
