// What heterod's thread still hears of a Pod that was removed: it must be nothing, as the Pod's state is gone.
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "common/testing/matchers.h"
#include "node-agent/ports/placeholder_ports.h"
#include "node-agent/ports/two_pus.h"

namespace heterok8s::ports {
namespace {

// Descriptors that epolls of this process watch.
size_t Watched() {
  size_t watched = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fdinfo")) {
    std::ifstream info(entry.path());
    for (std::string line; std::getline(info, line);) watched += line.starts_with("tfd:");
  }
  return watched;
}

TEST_CASE("placeholders: a Pod that was removed wakes nobody up, whoever else has its sockets", "[netns]") {
  TwoPus pus(/*start=*/true, Mechanism::kPlaceholder);
  Pu& host = pus.host();
  const size_t watched = Watched();
  std::vector<int> sockets;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const std::string what = std::filesystem::read_symlink(entry.path(), error).string();
    if (what.starts_with("socket:")) sockets.push_back(std::stoi(entry.path().filename()));
  }
  std::vector<sys::UniqueFd> child;  // what one that was spawned has until its exec
  for (int fd : sockets) child.emplace_back(dup(fd));

  REQUIRE_OK(host.ports->RemovePod(host.pod_key));

  CHECK(Watched() == watched - 1);
}

TEST_CASE("placeholders: a Pod with more than a thousand ports of the other PU is added again and removed", "[netns]") {
  TwoPus pus(/*start=*/true, Mechanism::kPlaceholder);
  Pu& host = pus.host();
  std::vector<PortKey> keys;
  for (uint16_t port = 2000; port < 3100; ++port)
    keys.push_back({.address = *IpAddress::Parse("0.0.0.0"), .port = port});
  REQUIRE_OK(host.ports->ReplaceRemote(host.pod_key, keys));

  CHECK_OK(host.ports->AddPod(host.Pod()));
  CHECK_OK(host.ports->RemovePod(host.pod_key));
}

}  // namespace
}  // namespace heterok8s::ports
