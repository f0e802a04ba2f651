// A split Pod on real namespaces whose two halves are wired, for tests; split_pod_topology.h draws it.
//
// Threading: one test thread. Ownership: the namespaces go with the object. Errors: fail the running test.
//
//   Wired pod;
//   pod.DpuOwns(Protocol::kTcp, 15006);
#pragma once

#include "common/testing/matchers.h"
#include "node-agent/podnet/link.h"
#include "node-agent/podnet/split_pod_topology.h"

namespace heterok8s::podnet {

struct Wired : SplitPodTopology {
  Wired() {
    REQUIRE_OK(EnsureLink(DpuSpec()));
    REQUIRE_OK(EnsureLink(HostSpec()));
    AwaitLink();
  }
  // What the two heterods do when a program on the DPU opens a port.
  void DpuOwns(Protocol protocol, uint16_t port, bool owns = true) {
    REQUIRE_OK(SetPort(DpuSpec(), protocol, port, owns));
    REQUIRE_OK(SetPort(HostSpec(), protocol, port, owns));
  }
  uint64_t Counted(const sys::NetnsRef& ns, const char* counter) {
    auto counters = ReadLinkCounters(ns.path());
    REQUIRE_OK(counters);
    return (*counters)[counter].packets;
  }
};

}  // namespace heterok8s::podnet
