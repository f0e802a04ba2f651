// A split Pod between an outside network, for tests: four namespaces, wired by hand where this folder's code is not
// the thing under test.
//
//   far                 net                      pod-d                         pod-h
//   10.99.0.2 ───1300─  10.99.0.1  10.88.0.1 ─── eth0  xpu0 ─────── link ───── eth0
//   fd00:99::2          fd00:99::1 fd00:88::1    P                             P
//
// P is 10.88.0.5 and fd00:88::5. `net` forwards; towards `far` its MTU is 1300, which
// neither end can know, so it says "fragmentation needed". Threading: one test thread.
// Everything is removed by the destructor; names hold the process id, so tests can run at the same time.
#pragma once

#include <string>

#include "common/sys/netns.h"
#include "node-agent/podnet/podnet.h"

namespace heterok8s::podnet {

class SplitPodTopology {
 public:
  SplitPodTopology();
  ~SplitPodTopology();

  const sys::NetnsRef& far() const { return far_; }
  const sys::NetnsRef& net() const { return net_; }
  const sys::NetnsRef& pod_d() const { return pod_d_; }
  const sys::NetnsRef& pod_h() const { return pod_h_; }

  // Until the device can send. The end of a veth that came up first gets its queue only when the kernel's link watch
  // has run, which a busy machine delays; what is sent before is lost without a trace.
  static void AwaitUp(const sys::NetnsRef& ns, const std::string& ifname);
  void AwaitLink() const;  // both ends, after EnsureLink on both sides

  LinkSpec HostSpec() const { return Spec(pu::Side::kHost); }
  LinkSpec DpuSpec() const { return Spec(pu::Side::kDpu); }

  // Runs `ip ARGS` in `ns`; fails the test when it fails. The output.
  static std::string Ip(const sys::NetnsRef& ns, const std::string& args);
  static std::string Sh(const sys::NetnsRef& ns, const std::string& command);

 private:
  enum class Namespaces { kMade };
  explicit SplitPodTopology(Namespaces);  // complete after it: a failure in wiring still runs the destructor
  LinkSpec Spec(pu::Side side) const;
  static sys::NetnsRef Make(const std::string& name);

  sys::NetnsRef far_, net_, pod_d_, pod_h_;
};

}  // namespace heterok8s::podnet
