// A way into a lab's network from the machine: TCP connections to 127.0.0.1:PORT there arrive at an address in here.
//
// A socket stays in the network namespace where it was made: this one listens in the machine's and dials in the lab's.
// Threading: one thread listens, each connection has one of its own. Ownership: runs until the process ends.
// Errors: errno; a connection that fails ends alone.
//
//   return RunForward({.listen_netns = "/run/lab/machine.netns", .port_file = "/run/lab/kubectl.port", .to =
//   "198.51.100.2:6443"});
#pragma once

#include <string>

#include "common/status/status.h"

namespace heterok8s::lab {

struct ForwardOptions {
  std::string listen_netns;  // empty: this one
  std::string port_file;     // the port is read from here when it is there, and written here when the kernel chose it
  std::string to;            // IPv4 "address:port"
};
absl::Status RunForward(const ForwardOptions& options);

}  // namespace heterok8s::lab
