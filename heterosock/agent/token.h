// Tokens of connections, by BPF: tells the two ends of a connection from all others behind any NAT.
//
// Purpose: attach token.bpf.c to a cgroup and read what it noted at a socket. The program and its map are pinned: they
// outlive the agent, so connections made while it was away have tokens as well.
// Threading: Read() from any thread. Ownership: the pins own the kernel's objects; Detach() removes them.
// Errors: kUnimplemented names what this kernel lacks; matching then goes by addresses, within one
// network namespace.
//
//   auto tokens = BpfTokens::Attach({.cgroup = "", .bpffs = "/run/heterosock/bpf"});
//   mechanisms.push_back(DescribeTokens(tokens.status()));
#pragma once

#include <memory>
#include <string>

#include "common/status/status.h"
#include "heterosock/agent/agent.h"

namespace heterok8s::heterosock::agent {

class BpfTokens final : public TokenReader {
 public:
  struct Options {
    std::string cgroup;  // whose sockets get tokens; empty: the root of cgroup v2, which is all sockets
    std::string bpffs;   // folder for the pins; a bpffs is mounted there when there is none
  };
  static absl::StatusOr<std::unique_ptr<BpfTokens>> Attach(const Options& options);
  static void Detach(const std::string& bpffs);

  Token Read(int socket) const override;
  const std::string& cgroup() const { return cgroup_; }
  ~BpfTokens() override;

 private:
  struct Object;
  BpfTokens();
  std::unique_ptr<Object> object_;
  std::string cgroup_;
};

}  // namespace heterok8s::heterosock::agent
