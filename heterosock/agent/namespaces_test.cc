// Ends in different network namespaces: policy, NAT and tokens, two PUs.
//
//      client ns                       server ns
//   10.9.0.1/24 va ──────────────── vb 10.9.0.2/24
//                                      nft: 10.9.0.99:80 -> 10.9.0.2:PORT   (a Service address)
//
// The agent runs in the test's own namespace.
#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "common/bpf/mounts.h"
#include "common/sys/netns.h"
#include "common/sys/process.h"
#include "common/testing/matchers.h"
#include "heterosock/agent/agent.h"
#include "heterosock/agent/testing/client.h"
#include "heterosock/agent/token.h"

namespace heterok8s::heterosock::agent {
namespace {

using nlohmann::json;
using protocol::Reason;
using namespace testing;

absl::Status Sh(const std::string& command) {
  HK_ASSIGN_OR_RETURN(sys::RunResult result, sys::Run({.argv = {"/bin/sh", "-c", command}}));
  if (result.exit_code == 0) return absl::OkStatus();
  return absl::InternalError(fmt::format("{}: {}{}", command, result.stdout_text, result.stderr_text));
}

class TwoNamespaces {
 public:
  TwoNamespaces() {
    static int count = 0;
    tag_ = fmt::format("hks{}-{}", getpid(), count++);
  }
  ~TwoNamespaces() {
    sys::DeleteNetns(client_path()).IgnoreError();
    sys::DeleteNetns(server_path()).IgnoreError();
  }
  absl::Status SetUp() {
    HK_RETURN_IF_ERROR(sys::CreateNetns(client_path()).status());
    HK_RETURN_IF_ERROR(sys::CreateNetns(server_path()).status());
    return Sh(
        fmt::format("ip -n {0}c link add va type veth peer name vb netns {0}s && "
                    "ip -n {0}c addr add 10.9.0.1/24 dev va && ip -n {0}c link set va up && "
                    "ip -n {0}s addr add 10.9.0.2/24 dev vb && ip -n {0}s link set vb up && "
                    "ip -n {0}c route add 10.9.0.99 via 10.9.0.2",
                    tag_));
  }
  // 10.9.0.99:80 becomes 10.9.0.2:`port` in the server's namespace.
  absl::Status Translate(uint16_t port) {
    return Sh(
        fmt::format("ip netns exec {0}s nft 'add table ip t; "
                    "add chain ip t c {{ type nat hook prerouting priority -100; }}; "
                    "add rule ip t c ip daddr 10.9.0.99 tcp dport 80 dnat to 10.9.0.2:{1}'",
                    tag_, port));
  }
  std::string client_path() const { return "/run/netns/" + tag_ + "c"; }
  std::string server_path() const { return "/run/netns/" + tag_ + "s"; }

  absl::StatusOr<sys::UniqueFd> Connect(const std::string& address, uint16_t port) {
    return In<sys::UniqueFd>(client_path(), [&] { return ConnectTcp(address, port); });
  }
  absl::StatusOr<std::pair<sys::UniqueFd, uint16_t>> Listen() {
    return In<std::pair<sys::UniqueFd, uint16_t>>(server_path(), [] { return ListenTcp("10.9.0.2"); });
  }

 private:
  template <typename T>
  static absl::StatusOr<T> In(const std::string& path, const std::function<absl::StatusOr<T>()>& fn) {
    absl::StatusOr<T> result = absl::InternalError("not run");
    HK_ASSIGN_OR_RETURN(sys::NetnsRef netns, sys::NetnsRef::Open(path));
    HK_RETURN_IF_ERROR(sys::InNetns(netns, [&] {
      result = fn();
      return result.status();
    }));
    return result;
  }
  std::string tag_;
};

struct Ends {
  sys::UniqueFd listener, client, server;
};
absl::StatusOr<Ends> MakeEnds(TwoNamespaces& namespaces, bool through_nat) {
  Ends ends;
  auto listener = namespaces.Listen();
  HK_RETURN_IF_ERROR(listener.status());
  ends.listener = std::move(listener->first);
  if (through_nat) HK_RETURN_IF_ERROR(namespaces.Translate(listener->second));
  HK_ASSIGN_OR_RETURN(ends.client, through_nat ? namespaces.Connect("10.9.0.99", 80)
                                               : namespaces.Connect("10.9.0.2", listener->second));
  HK_ASSIGN_OR_RETURN(ends.server, AcceptTcp(ends.listener.get()));
  return ends;
}

Agent::Options Options(const TwoNamespaces& namespaces, bool allow) {
  Agent::Options options;
  options.ring_bytes = 65536;
  if (allow) {
    auto policy =
        Policy::Parse({"c = netns:" + namespaces.client_path(), "s = netns:" + namespaces.server_path()}, {"c s"});
    REQUIRE_OK(policy);
    options.policy = *policy;
  }
  return options;
}

// A cgroup v2 of this test's own, and this process in it.
class OwnCgroup {
 public:
  absl::Status Enter() {
    HK_ASSIGN_OR_RETURN(std::string root, bpf::EnsureCgroup2(fmt::format("/run/hks{}-cgroup2", getpid())));
    std::ifstream in("/proc/self/cgroup");
    for (std::string line; std::getline(in, line);) {
      if (line.starts_with("0::")) former_ = root + line.substr(3);
    }
    path_ = fmt::format("{}/hks{}", root, getpid());
    std::error_code error;
    std::filesystem::create_directory(path_, error);
    if (error) return ErrnoToStatus(error.value(), "make a cgroup");
    return Move(path_);
  }
  ~OwnCgroup() {
    if (path_.empty()) return;
    Move(former_).IgnoreError();
    rmdir(path_.c_str());
  }
  const std::string& path() const { return path_; }

 private:
  static absl::Status Move(const std::string& cgroup) {
    std::ofstream out(cgroup + "/cgroup.procs");
    out << getpid() << std::flush;
    return out.good() ? absl::OkStatus() : absl::InternalError("enter " + cgroup);
  }
  std::string path_, former_;
};

TEST_CASE("ends in two namespaces need a chain that joins them", "[netns]") {
  TwoNamespaces namespaces;
  REQUIRE_OK(namespaces.SetUp());
  auto ends = MakeEnds(namespaces, /*through_nat=*/false);
  REQUIRE_OK(ends);

  SECTION("allowed, and fenced when the policy no longer allows it") {
    auto agent = RunningAgent::Start(Options(namespaces, /*allow=*/true));
    REQUIRE_OK(agent);
    auto client = Client::Connect((*agent)->socket()), server = Client::Connect((*agent)->socket());
    REQUIRE_OK(client);
    REQUIRE_OK(server);
    REQUIRE_OK(client->Offer(1, ends->client.get()));
    REQUIRE_OK(server->Offer(1, ends->server.get()));
    CHECK_OK(client->Await<protocol::Paired>());
    CHECK_OK(server->Await<protocol::Paired>());

    (*agent)->agent().Post([](Agent& a) { a.SetPolicy(Policy()); });
    auto fence = server->Await<protocol::Fence>();
    REQUIRE_OK(fence);
    CHECK(fence->first.reason == static_cast<uint32_t>(Reason::kPolicyChanged));
  }
  SECTION("not allowed") {
    auto agent = RunningAgent::Start(Options(namespaces, /*allow=*/false));
    REQUIRE_OK(agent);
    auto client = Client::Connect((*agent)->socket());
    REQUIRE_OK(client);
    REQUIRE_OK(client->Offer(1, ends->client.get()));
    REQUIRE_OK(client->Offer(2, ends->server.get()));
    for (int i = 0; i < 2; ++i) {
      auto declined = client->Await<protocol::Declined>();
      REQUIRE_OK(declined);
      CHECK(declined->first.reason == static_cast<uint32_t>(Reason::kPolicy));
    }
  }
}

TEST_CASE("behind NAT ends are joined by the token of their SYN, and by nothing else", "[netns]") {
  TwoNamespaces namespaces;
  REQUIRE_OK(namespaces.SetUp());
  OwnCgroup cgroup;
  REQUIRE_OK(cgroup.Enter());
  const std::string bpffs = fmt::format("/run/hks{}-bpf", getpid());
  auto tokens = BpfTokens::Attach({.cgroup = cgroup.path(), .bpffs = bpffs});
  if (absl::IsUnimplemented(tokens.status())) {
    WARN("no tokens on this kernel: " << Message(tokens.status()));
    return;
  }
  REQUIRE_OK(tokens);
  Agent::Options options = Options(namespaces, /*allow=*/true);

  SECTION("with tokens") {
    auto ends = MakeEnds(namespaces, /*through_nat=*/true);
    REQUIRE_OK(ends);
    const auto near = (*tokens)->Read(ends->client.get()), far = (*tokens)->Read(ends->server.get());
    CHECK(near.value != 0);
    CHECK(near.value == far.value);
    CHECK(near.connected);
    CHECK_FALSE(far.connected);
    CHECK((*tokens)->Read(ends->listener.get()).value == 0);

    options.tokens = tokens->get();
    auto agent = RunningAgent::Start(options);
    REQUIRE_OK(agent);
    auto client = Client::Connect((*agent)->socket()), server = Client::Connect((*agent)->socket());
    REQUIRE_OK(client);
    REQUIRE_OK(server);
    REQUIRE_OK(server->Offer(1, ends->server.get()));
    REQUIRE_OK(client->Offer(1, ends->client.get()));
    auto paired = client->Await<protocol::Paired>();
    REQUIRE_OK(paired);
    CHECK(paired->first.side == 0);  // the end that connected
    CHECK_OK(server->Await<protocol::Paired>());
    CHECK(json::parse((*agent)->StatusText())["channels"][0]["matched_by"] == "token");
  }
  SECTION("without") {
    auto ends = MakeEnds(namespaces, /*through_nat=*/true);
    REQUIRE_OK(ends);
    options.offer_deadline = std::chrono::milliseconds(100);
    auto agent = RunningAgent::Start(options);
    REQUIRE_OK(agent);
    auto client = Client::Connect((*agent)->socket());
    REQUIRE_OK(client);
    REQUIRE_OK(client->Offer(1, ends->client.get()));
    REQUIRE_OK(client->Offer(2, ends->server.get()));
    auto declined = client->Await<protocol::Declined>();
    REQUIRE_OK(declined);
    CHECK(declined->first.reason == static_cast<uint32_t>(Reason::kNoPeer));
  }
  SECTION("a restarted agent finds the tokens of connections made before") {
    auto ends = MakeEnds(namespaces, /*through_nat=*/true);
    REQUIRE_OK(ends);
    const uint64_t before = (*tokens)->Read(ends->client.get()).value;
    tokens->reset();
    tokens = BpfTokens::Attach({.cgroup = cgroup.path(), .bpffs = bpffs});
    REQUIRE_OK(tokens);
    CHECK((*tokens)->Read(ends->client.get()).value == before);
  }
  SECTION("data still flows, and other sockets have no token") {
    auto ends = MakeEnds(namespaces, /*through_nat=*/false);
    REQUIRE_OK(ends);
    char byte = 0;
    CHECK(write(ends->client.get(), "x", 1) == 1);
    CHECK(read(ends->server.get(), &byte, 1) == 1);
    CHECK(byte == 'x');
  }
  tokens->reset();
  BpfTokens::Detach(bpffs);
  std::error_code error;
  std::filesystem::remove(bpffs, error);
}

TEST_CASE("two agents join a connection whose ends are on two PUs", "[netns]") {
  TwoNamespaces namespaces;
  REQUIRE_OK(namespaces.SetUp());
  const std::string folder = MakeFolder();
  Agent::Options host = Options(namespaces, /*allow=*/true), dpu = host;
  host.offer_deadline = dpu.offer_deadline = kPatience;
  dpu.pu_listen = host.pu_connect = folder + "/pu.sock";
  auto dpu_agent = RunningAgent::Start(dpu);
  REQUIRE_OK(dpu_agent);
  auto host_agent = RunningAgent::Start(host);
  REQUIRE_OK(host_agent);
  const auto joined = [](const json& status) { return status["totals"]["pu_link"].get<bool>(); };
  for (int i = 0; i < 4000 && !joined(json::parse((*dpu_agent)->StatusText())); ++i) usleep(5000);
  REQUIRE(joined(json::parse((*host_agent)->StatusText())));

  auto ends = MakeEnds(namespaces, /*through_nat=*/false);
  REQUIRE_OK(ends);
  auto on_host = Client::Connect((*host_agent)->socket()), on_dpu = Client::Connect((*dpu_agent)->socket());
  REQUIRE_OK(on_host);
  REQUIRE_OK(on_dpu);

  SECTION("either end may offer first; both get one channel") {
    const bool host_first = GENERATE(true, false);
    if (host_first) {
      REQUIRE_OK(on_host->Offer(1, ends->client.get()));
      for (int i = 0; i < 4000; ++i) {
        if (json::parse((*dpu_agent)->StatusText())["totals"]["waiting_offers"] == 1) break;
        usleep(5000);
      }
      REQUIRE_OK(on_dpu->Offer(1, ends->server.get()));
    } else {
      REQUIRE_OK(on_dpu->Offer(1, ends->server.get()));
      REQUIRE_OK(on_host->Offer(1, ends->client.get()));
    }
    auto near = on_host->Await<protocol::Paired>(), far = on_dpu->Await<protocol::Paired>();
    REQUIRE_OK(near);
    REQUIRE_OK(far);
    CHECK(near->first.nonce == far->first.nonce);
    CHECK(near->first.side + far->first.side == 1);
    const uint64_t word = 0x77;
    uint64_t seen = 0;
    CHECK(pwrite(near->second.descriptors[0].get(), &word, sizeof word, 65536) == sizeof word);
    CHECK(pread(far->second.descriptors[0].get(), &seen, sizeof seen, 65536) == sizeof seen);
    CHECK(seen == word);
    CHECK(write(near->second.descriptors[2].get(), &word, 8) == 8);
    CHECK(read(far->second.descriptors[1].get(), &seen, 8) == 8);
    CHECK(json::parse((*host_agent)->StatusText())["channels"][0]["ends"].dump().find("\"other\"") !=
          std::string::npos);

    // The end of one side is the end of the other's count.
    REQUIRE_OK(on_host->Release(near->first.channel_id, Reason::kClosed));
    REQUIRE_OK(on_dpu->Release(far->first.channel_id, Reason::kClosed));
    for (RunningAgent* agent : {host_agent->get(), dpu_agent->get()}) {
      size_t left = 1;
      for (int i = 0; i < 4000 && left != 0; ++i, usleep(5000)) {
        left = json::parse(agent->StatusText())["channels"].size();
      }
      CHECK(left == 0);
    }
  }
  SECTION("the other agent dies: what waits is declined, what exists goes on, and they join again") {
    REQUIRE_OK(on_host->Offer(1, ends->client.get()));
    dpu_agent->reset();
    for (int i = 0; i < 4000 && joined(json::parse((*host_agent)->StatusText())); ++i) usleep(5000);
    CHECK_FALSE(joined(json::parse((*host_agent)->StatusText())));
    dpu_agent = RunningAgent::Start(dpu);
    REQUIRE_OK(dpu_agent);
    for (int i = 0; i < 4000 && !joined(json::parse((*host_agent)->StatusText())); ++i) usleep(5000);
    CHECK(joined(json::parse((*host_agent)->StatusText())));
  }
  host_agent->reset();
  dpu_agent->reset();
  rmdir(folder.c_str());
}

}  // namespace
}  // namespace heterok8s::heterosock::agent
