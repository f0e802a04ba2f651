// Two network namespaces with a wire between them, and the ends of a connection that has one in each.
//
//      client ns                       server ns
//   10.9.0.1/24 va ──────────────── vb 10.9.0.2/24
//                                      nft: 10.9.0.99:80 -> 10.9.0.2:PORT   (a Service address)
//
// Needs root. Threading: one thread. Ownership: the namespaces, and the cgroup, go with their object. Errors: as
// Status.
//
//   TwoNamespaces namespaces;
//   REQUIRE_OK(namespaces.SetUp());
//   auto ends = MakeEnds(namespaces, /*through_nat=*/false);
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <utility>

#include "common/bpf/mounts.h"
#include "common/sys/netns.h"
#include "common/sys/process.h"
#include "common/testing/matchers.h"
#include "heterosock/agent/agent.h"
#include "heterosock/agent/testing/client.h"

namespace heterok8s::heterosock::agent::testing {

inline absl::Status Sh(const std::string& command) {
  HK_ASSIGN_OR_RETURN(sys::RunResult result, sys::Run({.argv = {"/bin/sh", "-c", command}}));
  if (result.exit_code == 0) return absl::OkStatus();
  return absl::InternalError(fmt::format("{}: {}{}", command, result.stdout_text, result.stderr_text));
}

class TwoNamespaces {
 public:
  TwoNamespaces() {
    static int count = 0;
    tag_ = fmt::format("hks{}-{}", getpid(), count++);
  }
  ~TwoNamespaces() {
    sys::DeleteNetns(client_path()).IgnoreError();
    sys::DeleteNetns(server_path()).IgnoreError();
  }
  absl::Status SetUp() {
    HK_RETURN_IF_ERROR(sys::CreateNetns(client_path()).status());
    HK_RETURN_IF_ERROR(sys::CreateNetns(server_path()).status());
    return Sh(
        fmt::format("ip -n {0}c link add va type veth peer name vb netns {0}s && "
                    "ip -n {0}c addr add 10.9.0.1/24 dev va && ip -n {0}c link set va up && "
                    "ip -n {0}s addr add 10.9.0.2/24 dev vb && ip -n {0}s link set vb up && "
                    "ip -n {0}c route add 10.9.0.99 via 10.9.0.2",
                    tag_));
  }
  // 10.9.0.99:80 becomes 10.9.0.2:`port` in the server's namespace.
  absl::Status Translate(uint16_t port) {
    return Sh(
        fmt::format("ip netns exec {0}s nft 'add table ip t; "
                    "add chain ip t c {{ type nat hook prerouting priority -100; }}; "
                    "add rule ip t c ip daddr 10.9.0.99 tcp dport 80 dnat to 10.9.0.2:{1}'",
                    tag_, port));
  }
  // The server's namespace drops SYNs with an experimental option.
  absl::Status DropTokens() {
    return Sh(
        fmt::format("ip netns exec {0}s nft 'add table ip drops; "
                    "add chain ip drops c {{ type filter hook input priority 0; }}; "
                    "add rule ip drops c tcp flags & (syn | ack) == syn tcp option 254 exists counter drop'",
                    tag_));
  }
  absl::Status HasDroppedOneToken() {
    return Sh(fmt::format("ip netns exec {}s nft list table ip drops | grep -q 'packets 1 '", tag_));
  }
  std::string client_path() const { return "/run/netns/" + tag_ + "c"; }
  std::string server_path() const { return "/run/netns/" + tag_ + "s"; }

  absl::StatusOr<sys::UniqueFd> Connect(const std::string& address, uint16_t port) {
    return In<sys::UniqueFd>(client_path(), [&] { return ConnectTcp(address, port); });
  }
  absl::StatusOr<std::pair<sys::UniqueFd, uint16_t>> Listen() {
    return In<std::pair<sys::UniqueFd, uint16_t>>(server_path(), [] { return ListenTcp("10.9.0.2"); });
  }

 private:
  template <typename T>
  static absl::StatusOr<T> In(const std::string& path, const std::function<absl::StatusOr<T>()>& fn) {
    absl::StatusOr<T> result = absl::InternalError("not run");
    HK_ASSIGN_OR_RETURN(sys::NetnsRef netns, sys::NetnsRef::Open(path));
    HK_RETURN_IF_ERROR(sys::InNetns(netns, [&] {
      result = fn();
      return result.status();
    }));
    return result;
  }
  std::string tag_;
};

struct Ends {
  sys::UniqueFd listener, client, server;
};
inline absl::StatusOr<Ends> MakeEnds(TwoNamespaces& namespaces, bool through_nat) {
  Ends ends;
  auto listener = namespaces.Listen();
  HK_RETURN_IF_ERROR(listener.status());
  ends.listener = std::move(listener->first);
  if (through_nat) HK_RETURN_IF_ERROR(namespaces.Translate(listener->second));
  HK_ASSIGN_OR_RETURN(ends.client, through_nat ? namespaces.Connect("10.9.0.99", 80)
                                               : namespaces.Connect("10.9.0.2", listener->second));
  HK_ASSIGN_OR_RETURN(ends.server, AcceptTcp(ends.listener.get()));
  return ends;
}

// Without tokens; the agent believes addresses instead.
inline Agent::Options Options(const TwoNamespaces& namespaces, bool allow) {
  Agent::Options options;
  options.believe_addresses = true;
  options.ring_bytes = 65536;
  if (allow) {
    auto policy =
        Policy::Parse({"c = netns:" + namespaces.client_path(), "s = netns:" + namespaces.server_path()}, {"c s"});
    REQUIRE_OK(policy);
    options.policy = *policy;
  }
  return options;
}

// A cgroup v2 of this test's own, and this process in it.
class OwnCgroup {
 public:
  absl::Status Enter() {
    HK_ASSIGN_OR_RETURN(std::string root, bpf::EnsureCgroup2(fmt::format("/run/hks{}-cgroup2", getpid())));
    std::ifstream in("/proc/self/cgroup");
    for (std::string line; std::getline(in, line);) {
      if (line.starts_with("0::")) former_ = root + line.substr(3);
    }
    path_ = fmt::format("{}/hks{}", root, getpid());
    std::error_code error;
    std::filesystem::create_directory(path_, error);
    if (error) return ErrnoToStatus(error.value(), "make a cgroup");
    return Move(path_);
  }
  ~OwnCgroup() {
    if (path_.empty()) return;
    Move(former_).IgnoreError();
    rmdir(path_.c_str());
  }
  const std::string& path() const { return path_; }

 private:
  static absl::Status Move(const std::string& cgroup) {
    std::ofstream out(cgroup + "/cgroup.procs");
    out << getpid() << std::flush;
    return out.good() ? absl::OkStatus() : absl::InternalError("enter " + cgroup);
  }
  std::string path_, former_;
};

}  // namespace heterok8s::heterosock::agent::testing
