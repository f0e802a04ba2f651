// What a Node is switched with.
//
// Threading: plain values. Ownership: copied. Errors: none.
//
//   NodeOptions options{.via = Via::kSocket, .steady_for = std::chrono::seconds(35)};
#pragma once

#include <chrono>
#include <string>

namespace heterok8s::ctl {

enum class Via { kKubelet, kSocket };

struct NodeOptions {
  Via via = Via::kKubelet;
  std::string kubelet_unit = "kubelet.service", runtime_unit = "containerd.service", router_unit = "heterocri.service";
  std::string router_socket = "/run/heterok8s/cri.sock";
  std::string runtime_socket = "/run/containerd/containerd.sock";
  std::string moved_socket = "/run/containerd/containerd-host.sock";  // by socket: where containerd is then
  std::string node_name;                                              // empty: this machine's name
  std::string kubeconfig = "/etc/kubernetes/kubelet.conf";
  int healthz_port = 10248;               // kubelet's default
  std::chrono::seconds ready_within{60};  // of the change
  std::chrono::seconds steady_for{10};    // without a break from then on, before it is believed
  bool force = false;                     // disable: although split Pods run
  std::string own_program;                // for systemd, should we die; empty: no such net
};

}  // namespace heterok8s::ctl
