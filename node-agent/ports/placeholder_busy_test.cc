// A Pod whose sockets come and go all the time, without BPF: what it costs is bounded, and its neighbour is heard.
#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

#include "common/sys/process.h"
#include "node-agent/ports/clock.h"
#include "node-agent/ports/placeholder_ports.h"
#include "node-agent/ports/share_testing.h"

namespace heterok8s::ports {
namespace {

// A second Pod of the same heterod, with a device that has this side's link address.
struct QuietPod {
  explicit QuietPod(Pu& pu) : place(fmt::format("hkpb{}", getpid()), pu.side), ports(*pu.ports) {
    for (const char* words : {"link add xpu0 type veth peer name other", "addr add 169.254.64.9/32 dev xpu0"}) {
      auto done = sys::Run({.argv = {"/bin/sh", "-ec", fmt::format("ip -n {} {}", place.name, words)}});
      REQUIRE_OK(done);
      REQUIRE(done->exit_code == 0);
    }
    auto v4 = [](int last) { return IpAddress::V4(0xa9fe4000 + last); };
    PodPorts pod = place.Pod();
    pod.link = {.host_localhost = v4(8), .dpu_localhost = v4(9), .host_pod = v4(10), .dpu_pod = v4(11)};
    pod.addresses = {*IpAddress::Parse("10.200.0.6")};
    REQUIRE_OK(ports.AddPod(pod));
  }
  ~QuietPod() { (void)ports.RemovePod(place.pod_key); }
  Pu place;
  Ports& ports;
};

TEST_CASE(
    "placeholders: a Pod in which sockets end all the time is looked at no more than twice as often, others as ever",
    "[netns]") {
  TwoPus pus(/*start=*/true, Mechanism::kPlaceholder);
  Pu& dpu = pus.dpu();
  QuietPod quiet(dpu);
  std::atomic<bool> stop = false;
  std::thread restless([&] {
    (void)sys::InNetns(dpu.ns, [&] {
      while (!stop) {
        sys::UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        (void)Bind(fd, kLocalhost, 2000);
      }
      return absl::OkStatus();
    });
  });
  auto& ports = dynamic_cast<PlaceholderPorts&>(*dpu.ports);
  const PlaceholderPorts::Looks before = ports.looks();
  const uint64_t began = MonotonicNs();
  constexpr int kOpened = 20;

  for (uint16_t port = 100; port < 100 + kOpened; ++port) {
    sys::UniqueFd fd = quiet.place.Socket(AF_INET, SOCK_STREAM);
    REQUIRE(Bind(fd, kLocalhost, port) == 0);
    REQUIRE(listen(fd.get(), 1) == 0);
    pus.AwaitTold(dpu, {.address = kLocalhost, .port = port}, true);
  }

  const PlaceholderPorts::Looks after = ports.looks();
  const uint64_t rounds = (MonotonicNs() - began) / 2'000'000 + 1;
  stop = true;
  restless.join();
  // In each 2 ms one count of each Pod and two more of the restless one; one for each socket that the other has closed.
  CHECK(after.counts - before.counts <= 4 * rounds + kOpened);
  CHECK(after.dumps - before.dumps <= after.counts - before.counts);
}

}  // namespace
}  // namespace heterok8s::ports
