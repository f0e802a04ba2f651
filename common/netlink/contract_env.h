// The two worlds in which every test of Netlink's contract runs: the fake and the kernel.
//
//   TEMPLATE_TEST_CASE("…", "[netns][contract]", FakeEnv, KernelEnv) {
//     Joined<TestType> env;   // a veth from "a" in here() to "b" in there()
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>

#include "common/netlink/fake_netlink.h"
#include "common/netlink/libnl_netlink.h"
#include "common/sys/netns.h"
#include "common/testing/matchers.h"

namespace heterok8s::netlink {

using testing::HasCode;
using testing::Says;

inline constexpr auto kNotFound = absl::StatusCode::kNotFound;
inline constexpr auto kAlreadyExists = absl::StatusCode::kAlreadyExists;

struct FakeEnv {
  FakeKernel kernel;
  int other_fd = kernel.NewNetns();
  FakeNetlink here_netlink{kernel, kernel.root()}, there_netlink{kernel, other_fd};

  Netlink& here() { return here_netlink; }
  Netlink& there() { return there_netlink; }
  int there_fd() const { return other_fd; }
};

struct KernelEnv {
  std::string path = fmt::format("/run/netns/hknl{}-", getpid());
  sys::NetnsRef here_netns = *sys::CreateNetns(path + "a"), there_netns = *sys::CreateNetns(path + "b");
  std::unique_ptr<Netlink> here_netlink = *OpenNetlinkIn(here_netns), there_netlink = *OpenNetlinkIn(there_netns);

  ~KernelEnv() {
    (void)sys::DeleteNetns(path + "a");
    (void)sys::DeleteNetns(path + "b");
  }
  Netlink& here() { return *here_netlink; }
  Netlink& there() { return *there_netlink; }
  int there_fd() const { return there_netns.fd(); }
};

// "a" here and "b" there, both up.
template <typename Env>
struct Joined : Env {
  int a = 0, b = 0;

  Joined() {
    Batch batch;
    batch.Add(AddVeth{.end = {.name = "a", .mac = "02:00:00:00:00:0a", .mtu = 1400},
                      .peer = {.name = "b", .mac = "02:00:00:00:00:0b", .mtu = 1400, .netns_fd = this->there_fd()}});
    batch.Add(SetLink{.by_name = "a", .up = true, .no_link_local = true});
    REQUIRE_OK(this->here().Apply(batch));
    REQUIRE_OK(this->there().Do(SetLink{.by_name = "b", .up = true, .no_link_local = true}));
    a = this->here().FindLink("a")->index;
    b = this->there().FindLink("b")->index;
  }
};

inline IpAddress Ip(const char* text) { return *IpAddress::Parse(text); }
inline IpPrefix Prefix(const char* text) { return *IpPrefix::Parse(text); }

template <typename T>
bool Contains(const absl::StatusOr<std::vector<T>>& all, const T& one) {
  REQUIRE_OK(all);
  return std::find(all->begin(), all->end(), one) != all->end();
}

}  // namespace heterok8s::netlink
