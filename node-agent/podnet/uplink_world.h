// Two Pods and the namespace that joins them, for the tests of uplinks.
//
//   root namespace (of the test)            Pod a                       Pod b
//     hku…(a) ───────────────────────────── eth0 10.88.0.5 fd00:88::5
//     hku…(b) ─────────────────────────────────────────────────────── eth0 10.88.0.6 fd00:88::6
//
// Threading: one thread. Ownership: the namespaces go with the World. Errors: failed checks of the test.
//
//   World world;
//   REQUIRE_OK(world.Ensure(world.Spec(world.a, 5)));
//   CHECK(world.root.Pings("10.88.0.5"));
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <vector>

#include "common/netlink/libnl_netlink.h"
#include "common/sys/netns.h"
#include "common/sys/process.h"
#include "common/testing/matchers.h"
#include "node-agent/podnet/uplink.h"
#include "node-agent/podnet/uplink_plan.h"

namespace heterok8s::podnet {

class Netns {
 public:
  explicit Netns(const std::string& name)
      : path_(fmt::format("/run/netns/hk{}-{}", getpid(), name)), ref_(*sys::CreateNetns(path_)) {}
  ~Netns() { (void)sys::DeleteNetns(path_); }
  const std::string& path() const { return path_; }
  const sys::NetnsRef& ref() const { return ref_; }

  // Runs `fn` there and returns its status.
  template <typename Fn>
  absl::Status In(Fn fn) const {
    return sys::InNetns(ref_, fn);
  }
  void Change(const netlink::Change& change) const {
    CHECK_OK(In([&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(auto netlink, netlink::OpenNetlink());
      return netlink->Do(change);
    }));
  }
  std::optional<netlink::Link> Find(const std::string& name) const {
    std::optional<netlink::Link> found;
    (void)In([&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(auto netlink, netlink::OpenNetlink());
      HK_ASSIGN_OR_RETURN(found, netlink->FindLink(name));
      return absl::OkStatus();
    });
    return found;
  }
  std::vector<netlink::Link> Links() const {
    std::vector<netlink::Link> links;
    CHECK_OK(In([&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(auto netlink, netlink::OpenNetlink());
      HK_ASSIGN_OR_RETURN(links, netlink->Links());
      return absl::OkStatus();
    }));
    return links;
  }
  int Exit(const std::vector<std::string>& argv) const {
    int code = -1;
    (void)In([&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(sys::RunResult result, sys::Run({.argv = argv}));
      code = result.exit_code;
      INFO(result.stdout_text << result.stderr_text);
      return absl::OkStatus();
    });
    return code;
  }
  bool Pings(const std::string& address) const { return Exit({"ping", "-c1", "-w30", address}) == 0; }

 private:
  std::string path_;
  sys::NetnsRef ref_;
};

struct World {
  Netns root{"root"}, a{"a"}, b{"b"};

  World() {
    CHECK_OK(root.In([] { return EnableForwarding(); }));
  }

  UplinkSpec Spec(const Netns& pod, int number) const {
    return {.owner = {"test", fmt::format("pod-{}", number), "eth0"},
            .netns_path = pod.path(),
            .ifname = "eth0",
            .addresses = {*IpAddress::Parse(fmt::format("10.88.0.{}", number)),
                          *IpAddress::Parse(fmt::format("fd00:88::{}", number))}};
  }
  absl::Status Ensure(const UplinkSpec& spec) const {
    return root.In([&] { return EnsureUplink(spec).status(); });
  }
  absl::Status Check(const UplinkSpec& spec) const {
    return root.In([&] { return CheckUplink(spec); });
  }
  absl::Status Remove(const UplinkSpec& spec) const {
    return root.In([&] { return RemoveUplink(spec.owner, spec.netns_path); });
  }
  std::vector<pu::OwnerTag> List() const {
    std::vector<pu::OwnerTag> tags;
    CHECK_OK(root.In([&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(tags, ListUplinks("test"));
      return absl::OkStatus();
    }));
    return tags;
  }
};

}  // namespace heterok8s::podnet
