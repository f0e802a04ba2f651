// A Backend without a kernel, for tests of what is built on it. It passes the same contract tests as the netns one.
//
// Threading: thread-safe. Ownership: FakeFabric holds the links and outlives the back ends on it.
//
//   FakeFabric fabric;
//   FakeBackend host(fabric, Side::kHost, "demo"), dpu(fabric, Side::kDpu, "demo");
//   host.FailNext("AcquireLink", absl::UnavailableError("the DPU is gone"));
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "node-agent/pu/backend.h"

namespace heterok8s::pu {

class FakeFabric {
 public:
  // While it is down, AcquireLink answers kUnavailable.
  void SetDpuDown(bool down);
  // How many links there are, wherever their ends are.
  size_t size() const;

 private:
  friend class FakeBackend;
  struct End {
    uint64_t netns = 0;  // inode, 0: that side's root namespace
    LinkEnd link;
  };
  struct Link {
    End host, dpu;
  };

  mutable std::mutex mutex_;
  bool dpu_down_ = false;
  std::map<OwnerTag, Link> links_;
};

class FakeBackend : public Backend {
 public:
  FakeBackend(FakeFabric& fabric, Side side, std::string instance)
      : fabric_(fabric), side_(side), instance_(std::move(instance)) {}

  Capabilities caps() const override { return {.backend = "fake", .max_mtu = 65535, .shared_kernel = true}; }
  absl::StatusOr<LinkEnd> AcquireLink(const OwnerTag& tag, const LinkRequest& request) override;
  absl::StatusOr<LinkEnd> AcceptLink(const OwnerTag& tag, const LinkRequest& request) override;
  absl::Status ReleaseLink(const OwnerTag& tag, const sys::NetnsRef* netns) override;
  absl::StatusOr<std::vector<OwnerTag>> ListLinks() override;

  // The next call of this name fails so and changes nothing.
  void FailNext(const std::string& call, absl::Status status);

 private:
  // With fabric_.mutex_ held.
  absl::Status TakeFailure(const std::string& call);
  FakeFabric::End& Mine(FakeFabric::Link& link) const { return side_ == Side::kHost ? link.host : link.dpu; }

  FakeFabric& fabric_;
  const Side side_;
  const std::string instance_;
  std::map<std::string, absl::Status> failures_;
};

}  // namespace heterok8s::pu
