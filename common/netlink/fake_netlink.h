// A Netlink that behaves: state in maps, the kernel's error codes, failures on demand.
//
// Purpose: test what is built on netlink without root. It passes the same contract tests as the kernel.
// Threading: thread-compatible. Ownership: FakeKernel owns all state and outlives the FakeNetlinks on it.
//
//   FakeKernel kernel;
//   FakeNetlink root(kernel, kernel.root()), pod(kernel, kernel.NewNetns());
//   root.FailNext("AddRoute", ENOBUFS);
//   CHECK_THAT(root.Do(AddRoute{route}), HasCode(absl::StatusCode::kResourceExhausted));
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/netlink/netlink.h"

namespace heterok8s::netlink {

class FakeKernel {
 public:
  FakeKernel();
  ~FakeKernel();

  int root() const { return kFirstFd; }
  // A new namespace, known by the number that stands for its descriptor (VethEnd::netns_fd, SetLink::netns_fd).
  int NewNetns();
  // Removes the namespace and every link in it, with their peers.
  void DeleteNetns(int netns_fd);

 private:
  friend class FakeNetlink;
  struct Netns;
  static constexpr int kFirstFd = 1 << 20;  // no descriptor of a test process is that high

  Netns* Find(int netns_fd);

  std::map<int, std::unique_ptr<Netns>> namespaces_;
  int next_fd_ = kFirstFd;
  int next_pair_ = 1;
};

class FakeNetlink : public Netlink {
 public:
  FakeNetlink(FakeKernel& kernel, int netns_fd) : kernel_(kernel), netns_fd_(netns_fd) {}

  absl::StatusOr<std::vector<Link>> Links() override;
  absl::StatusOr<Link> FindLink(const std::string& name) override;
  absl::StatusOr<std::vector<Address>> Addresses(int link) override;
  absl::StatusOr<std::vector<Route>> Routes(uint32_t table, int link, std::optional<Family> family) override;
  absl::StatusOr<std::vector<Rule>> Rules(Family family) override;
  absl::StatusOr<std::vector<Neighbor>> Neighbors(int link) override;
  absl::StatusOr<Shaping> ShapingOf(int link) override;
  absl::Status SyncCarrier(const std::string& name) override;
  absl::Status Apply(const Batch& batch) override;

  // The next change of this kind (KindOf) fails with `error_number` and changes nothing.
  void FailNext(const std::string& kind, int error_number) { failures_[kind] = error_number; }

 private:
  struct Visitor;

  FakeKernel& kernel_;
  int netns_fd_;
  std::map<std::string, int> failures_;
};

}  // namespace heterok8s::netlink
