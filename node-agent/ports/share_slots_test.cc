// The sockets of a REUSEPORT group beyond the first are of the Pod's share, and so few have a slot.
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "node-agent/ports/clock.h"
#include "node-agent/ports/share_testing.h"

namespace heterok8s::ports {
namespace {

// One REUSEPORT group that listens on 127.0.0.1:80: two sockets more than have a slot.
std::vector<sys::UniqueFd> MoreThanSlots(Pu& pu) {
  std::vector<sys::UniqueFd> group;
  for (int i = 0; i < HK_LISTENER_SLOTS + 2; ++i) {
    group.push_back(pu.Socket(AF_INET, SOCK_STREAM));
    int on = 1;
    setsockopt(group.back().get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    REQUIRE(Bind(group.back(), kLocalhost, 80) == 0);
    REQUIRE(listen(group.back().get(), 1) == 0);
  }
  return group;
}

TEST_CASE("a slot that comes free while much changes is found", "[netns]") {
  TwoPus pus;
  Pu& dpu = pus.dpu();
  Counted counted(dpu);
  std::vector<sys::UniqueFd> group = MoreThanSlots(dpu);
  group.erase(group.begin());
  const uint64_t began = MonotonicNs();
  counted.SetTold((began / HK_WINDOW_NS + 100) << HK_WINDOW_BITS | HK_WINDOW_EVENTS);
  REQUIRE(Bind(dpu.Socket(AF_INET, SOCK_DGRAM), kAny, 0) == 0);  // says that from now on changes are kept back
  usleep(60'000);                                                // the look for the first free slot is over
  // The kernel shows a scan the youngest first, which took that slot. Its neighbour has none.
  sys::UniqueFd last = std::move(group[group.size() - 2]);
  group.clear();
  if (MonotonicNs() - began > HK_WINDOW_NS) {
    WARN("SKIPPED: this took longer than programs keep changes back");
    return;
  }
  counted.SetTold(0);

  CHECK(Eventually([&] {
    sys::UniqueFd caller = pus.host().Socket(AF_INET, SOCK_STREAM);
    return Connect(caller, kLocalhost, 80) == 0;
  }));
}

TEST_CASE("further sockets of a REUSEPORT group are of the Pod's share", "[netns]") {
  TwoPus pus;
  Pu& dpu = pus.dpu();
  Counted counted(dpu);
  std::vector<sys::UniqueFd> group = MoreThanSlots(dpu);
  CHECK(counted.used() == HK_LISTENER_SLOTS);

  while (group.size() > 1) group.erase(group.begin());

  // The last one had no slot and takes one that became free.
  CHECK(Eventually([&] {
    sys::UniqueFd caller = pus.host().Socket(AF_INET, SOCK_STREAM);
    return Connect(caller, kLocalhost, 80) == 0;
  }));
  group.clear();
  CHECK(Eventually([&] { return counted.used() == 0 && counted.claims() == 0; }));
}

}  // namespace
}  // namespace heterok8s::ports
