// Two heterods of the real binary and the kernel's Pods between them; see two_heterods.h for the picture. Needs root.
#include "node-agent/two_heterods.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/mount.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "common/sys/process.h"
#include "common/tls/pki.h"
#include "node-agent/pu/owner_tag.h"

namespace heterok8s::agent {

using testing::Eventually;

TEST_CASE("ordinary and split Pods come, answer, and go without a trace", "[netns]") {
  TwoHeterods node;
  node.Up();
  const size_t host_links = node.Links("host"), dpu_links = node.Links("dpu");
  node.NewPod("plain");
  node.NewPod("web");

  const nlohmann::json plain = node.Cni("ADD", "plain", false);
  const nlohmann::json web = node.Cni("ADD", "web", true);

  REQUIRE(plain.contains("ips"));
  REQUIRE(web.contains("ips"));
  CHECK(node.Pings("10.88.0.2"));
  CHECK(node.Pings("10.88.0.3"));
  CHECK(node.Metric("dpu", "heterod_split_pods") == "1");
  node.Cni("DEL", "web", true);
  node.Cni("DEL", "plain", false);
  // DEL may leave what the DPU did not answer in time to a tombstone, and the kernel removes devices after it answered.
  CHECK(Eventually([&] { return node.Metric("dpu", "heterod_attachments") == "0"; }));
  CHECK(node.Metric("host", "heterod_attachments") == "0");
  CHECK(Eventually([&] { return node.Metric("host", "heterod_addresses_used") == "0"; }));
  CHECK(Eventually([&] { return node.Links("host") == host_links; }));
  CHECK(Eventually([&] { return node.Links("dpu") == dpu_links; }));
  CHECK(Eventually([&] { return node.PodD().empty(); }));
}

TEST_CASE("a port of one half is refused to the other, reachable by localhost, and known after a restart of both",
          "[netns]") {
  TwoHeterods node;
  node.Up();
  const std::string pod_h = node.NewPod("web");
  REQUIRE(node.Cni("ADD", "web", true).contains("ips"));
  const std::string pod_d = node.PodD();

  auto on_dpu = Listen(pod_d, "127.0.0.1", 9090);
  auto on_host = Listen(pod_h, "0.0.0.0", 8080);
  REQUIRE_OK(on_dpu);
  REQUIRE_OK(on_host);
  CHECK(Eventually([&] { return Connect(pod_h, "127.0.0.1", 9090).ok(); }));
  CHECK(Eventually([&] { return Connect(pod_d, "127.0.0.1", 8080).ok(); }));
  CHECK_THAT(Listen(pod_h, "127.0.0.1", 9090).status(), testing::Says("Address already in use"));
  CHECK_THAT(Listen(pod_d, "0.0.0.0", 8080).status(), testing::Says("Address already in use"));

  CHECK(node.Stop("host", SIGTERM) == 0);
  CHECK(node.Stop("dpu", SIGTERM) == 0);
  CHECK(node.Pings("10.88.0.2"));  // without any heterod
  CHECK_OK(Connect(pod_h, "127.0.0.1", 9090));
  on_host->reset();  // nobody tells the DPU
  auto moved = Listen(pod_h, "0.0.0.0", 8081);
  REQUIRE_OK(moved);
  node.Start("dpu");
  node.Start("host");

  CHECK(Eventually([&] { return Connect(pod_d, "127.0.0.1", 8081).ok(); }));
  CHECK(Eventually([&] { return Listen(pod_d, "0.0.0.0", 8080).ok(); }));
  node.Cni("DEL", "web", true);
}

TEST_CASE("Pods stay reachable when port ownership changes from placeholders to BPF, and back", "[netns]") {
  TwoHeterods node;
  node.Up("placeholder");
  const std::string pod_h = node.NewPod("web");
  REQUIRE(node.Cni("ADD", "web", true).contains("ips"));
  const std::string pod_d = node.PodD();
  auto on_dpu = Listen(pod_d, "127.0.0.1", 9090);
  auto on_host = Listen(pod_h, "0.0.0.0", 8080);
  auto both_ways = [&] {
    return Eventually([&] { return Connect(pod_h, "127.0.0.1", 9090).ok(); }) &&
           Eventually([&] { return Connect(pod_d, "127.0.0.1", 8080).ok(); });
  };
  // NAT tables, in both halves. (That the link lets localhost pass is so with either mechanism, behind podnet's guard.)
  auto traces = [&] {
    std::string found;
    for (const std::string& pod : {pod_h, pod_d}) {
      auto result =
          sys::Run({.argv = {"nsenter", "--net=" + pod, "sh", "-c", "nft list tables | grep heterok8s_nat; true"}});
      REQUIRE_OK(result);
      REQUIRE(result->exit_code == 0);
      found += result->stdout_text;
    }
    return found;
  };
  REQUIRE(both_ways());
  CHECK_THAT(traces(), Catch::Contains("heterok8s_nat"));

  for (const std::string mechanism : {"bpf", "placeholder"}) {
    for (const std::string role : {"host", "dpu"}) node.Stop(role, SIGTERM);
    node.Configure(mechanism);
    for (const std::string role : {"host", "dpu"}) node.Start(role);
    INFO(mechanism);
    CHECK(both_ways());
    CHECK(traces().empty() == (mechanism == "bpf"));
  }

  node.Cni("DEL", "web", true);
}

TEST_CASE("a DPU that is killed: its Pods are removed when it returns, new ones are refused at once", "[netns]") {
  TwoHeterods node;
  node.lease = std::chrono::seconds(4);
  node.Up();
  node.NewPod("web");
  node.NewPod("other");
  REQUIRE(node.Cni("ADD", "web", true).contains("ips"));

  CHECK(node.Stop("dpu", SIGKILL) == 128 + SIGKILL);
  REQUIRE(Eventually([&] { return node.Metric("host", "heterod_lease_valid") == "0"; }));
  CHECK(node.Cni("ADD", "other", true).value("code", 0) == 100);
  node.Cni("DEL", "web", true);
  CHECK(node.Metric("host", "heterod_tombstones") == "1");
  node.Start("dpu");

  CHECK(Eventually([&] { return node.Metric("host", "heterod_tombstones") == "0"; }));
  CHECK(Eventually([&] { return node.PodD().empty(); }));
  CHECK(node.Cni("ADD", "other", true).contains("ips"));
  node.Cni("DEL", "other", true);
}

TEST_CASE("the halves' generations are what the other PU says: after restarts, and with a half that it has lost",
          "[netns]") {
  TwoHeterods node;
  node.Up();
  node.NewPod("web");
  REQUIRE(node.Cni("ADD", "web", true).contains("ips"));
  auto shows = [&](const std::string& behind, const std::string& unknown) {
    return [&node, behind, unknown] {
      for (const std::string role : {"host", "dpu"}) {
        if (node.Metric(role, "heterod_generations_behind") != behind) return false;
        if (node.Metric(role, "heterod_generations_unknown") != unknown) return false;
      }
      return true;
    };
  };
  CHECK(Eventually(shows("0", "0")));
  for (const std::string role : {"dpu", "host"}) {
    REQUIRE(node.Stop(role, SIGTERM) == 0);
    node.Start(role);
    INFO(role);
    CHECK(Eventually(shows("0", "0")));
  }

  // The half is lost, and cannot be made again while a stranger has the name of its uplink.
  REQUIRE(node.Stop("dpu", SIGTERM) == 0);
  const std::string pod_d = node.PodD();
  const std::string uplink = pu::InterfaceName({.instance = node.id(), .pod_key = "uid-web", .ifname = "eth0"}, 'u');
  const std::string root = node.id() + "-d";
  REQUIRE(umount2(pod_d.c_str(), MNT_DETACH) == 0);
  REQUIRE(unlink(pod_d.c_str()) == 0);
  auto taken = [&] {  // the uplink goes with its namespace, which the kernel takes down when it has time
    return sys::Run({.argv = {"ip", "-n", root, "link", "add", uplink, "type", "veth", "peer", "name", "stranger"}})
               ->exit_code == 0;
  };
  REQUIRE(Eventually(taken));
  REQUIRE(sys::Run({.argv = {"ip", "-n", root, "link", "set", uplink, "alias", "a stranger's"}})->exit_code == 0);
  node.Start("dpu");

  CHECK(Eventually([&] { return node.Metric("host", "heterod_generations_behind") == "1"; }));
  CHECK(node.Metric("host", "heterod_generations_unknown") == "0");
  REQUIRE(sys::Run({.argv = {"ip", "-n", root, "link", "del", uplink}})->exit_code == 0);
  CHECK(Eventually(shows("0", "0")));
  node.Cni("DEL", "web", true);
}

TEST_CASE("new Pods fit the smaller of the two PUs' uplinks, as these are now", "[netns]") {
  TwoHeterods node;
  node.Up();
  int number = 0;
  // Of the next Pod, on both PUs.
  auto pods_have = [&](bool split, const std::string& mtu) {
    const std::string name = fmt::format("p{}", number++), pod = node.NewPod(name);
    REQUIRE(node.Cni("ADD", name, split).contains("ips"));
    std::vector<std::string> ends = {"--net=" + pod, "eth0"};
    if (split) ends.insert(ends.end(), {"--net=" + node.PodD(), "eth0", "--net=" + node.PodD(), "xpu0"});
    bool all = true;
    for (size_t i = 0; i < ends.size(); i += 2) {
      auto shown = sys::Run({.argv = {"nsenter", ends[i], "ip", "link", "show", ends[i + 1]}});
      REQUIRE_OK(shown);
      all &= shown->stdout_text.find(" mtu " + mtu + " ") != std::string::npos;
    }
    node.Cni("DEL", name, split);
    return all;
  };
  auto give_uplink = [&](const std::string& role, const std::string& mtu) {
    const std::string ns = node.id() + "-" + role;
    const std::string command = fmt::format(
        "ip -n {0} link add up0 mtu {1} type veth peer name up1 mtu {1} && ip -n {0} link set up1 up && "
        "ip -n {0} link set up0 up && ip -n {0} route replace default dev up0",
        ns, mtu);
    REQUIRE(sys::Run({.argv = {"sh", "-c", command}})->exit_code == 0);
  };
  CHECK(pods_have(false, "1500"));

  give_uplink("d", "1400");
  CHECK(Eventually([&] { return pods_have(true, "1400"); }));
  CHECK(pods_have(false, "1400"));  // its packets pass the DPU too
  give_uplink("h", "1300");
  CHECK(Eventually([&] { return pods_have(true, "1300"); }));
  CHECK(pods_have(false, "1300"));
}

TEST_CASE("certificates are rotated under running heterods", "[netns]") {
  TwoHeterods node;
  node.Up();
  REQUIRE_OK(tls::RotatePki(node.dir() + "/pki", tls::kLeafLifetime));

  // A restart of one side makes new connections both ways, with the new files on one side from the start.
  node.Stop("dpu", SIGTERM);
  node.Start("dpu");
  node.NewPod("web");

  CHECK(node.Cni("ADD", "web", true).contains("ips"));
  node.Cni("DEL", "web", true);
}

TEST_CASE("a second heterod on the same folder is refused", "[netns]") {
  TwoHeterods node;
  node.Up();

  absl::StatusOr<sys::RunResult> second =
      sys::Run({.argv = {"nsenter", fmt::format("--net=/run/netns/{}-h", node.id()), node.bin() + "/node-agent/heterod",
                         "--config", node.dir() + "/host.yaml"}});

  REQUIRE_OK(second);
  CHECK(second->exit_code == 1);
  CHECK_THAT(second->stdout_text, Catch::Contains("another heterod uses"));
}

}  // namespace heterok8s::agent
