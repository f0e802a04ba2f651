// heterod dies and comes back: what was pinned works meanwhile, what changed meanwhile is known afterwards.
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <mutex>
#include <set>
#include <vector>

#include "common/testing/matchers.h"
#include "node-agent/ports/kernel.h"
#include "node-agent/ports/two_pus.h"

namespace heterok8s::ports {
namespace {

using testing::HasCode;

sys::UniqueFd Listening(Pu& pu, const IpAddress& address, uint16_t port = 0) {
  sys::UniqueFd fd = pu.Socket(address.family == Family::kV4 ? AF_INET : AF_INET6, SOCK_STREAM);
  REQUIRE(Bind(fd, address, port) == 0);
  REQUIRE(listen(fd.get(), 8) == 0);
  return fd;
}

const IpAddress kLocalhost = *IpAddress::Parse("127.0.0.1");

TEST_CASE("a heterod that dies at once leaves all in force for the next one", "[netns]") {
  TwoPus pus(/*start=*/false);
  Pu &host = pus.host(), &dpu = pus.dpu();
  PortKey theirs{.address = kLocalhost, .port = 7100};
  pid_t child = fork();
  if (child == 0) {  // both heterods live in the child, and end without a destructor
    bool ok = host.StartHeterod([](const PortChange&) {}).ok() && dpu.StartHeterod([](const PortChange&) {}).ok() &&
              host.ports->SetRemote(host.pod_key, theirs, true, 1).ok();
    _exit(ok ? 0 : 1);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WEXITSTATUS(status) == 0);

  // Nobody runs. A listener comes, is called from the other PU, and the port is refused there.
  sys::UniqueFd listener = Listening(dpu, kLocalhost, 7100), second = Listening(dpu, kLocalhost);
  sys::UniqueFd caller = host.Socket(AF_INET, SOCK_STREAM);
  REQUIRE(Connect(caller, kLocalhost, 7100) == 0);
  CHECK(PeerName(caller) == "127.0.0.1");
  CHECK(Bind(host.Socket(AF_INET, SOCK_STREAM), kLocalhost, 7100) == -EADDRINUSE);

  // The next heterod, before anyone adds the Pod again.
  auto ports = NewBpfPorts(dpu.options(), [](const PortChange&) {});
  REQUIRE_OK(ports);
  CHECK((*ports)->ListPods() == std::vector<std::string>{dpu.pod_key});
  std::vector<OwnedPort> local = (*ports)->Local(dpu.pod_key);
  REQUIRE(local.size() == 2);
  CHECK(local[0].key == theirs);
  ports->reset();
  pus.Start(host);
  CHECK(host.ports->Remote(host.pod_key) == std::vector<PortKey>{theirs});
  // Added again, it reports all that is open, though its predecessor may have done so.
  pus.Start(dpu);
  pus.AwaitReports(dpu, 2);

  second.reset();
  pus.AwaitTold(dpu, {.address = kLocalhost, .port = 7100}, true);
  pus.AwaitReports(dpu, 3);
  CHECK_FALSE(pus.Reports(dpu).back().opened);
}

// Between two heterods.
template <typename Change>
void ChangeMeta(const Pu& pu, Change change) {
  sys::UniqueFd fd(bpf_obj_get((pu.options().bpffs + "/maps/meta").c_str()));
  uint32_t zero = 0;
  hk_meta meta{};
  REQUIRE(bpf_map_lookup_elem(fd.get(), &zero, &meta) == 0);
  change(meta);
  REQUIRE(bpf_map_update_elem(fd.get(), &zero, &meta, BPF_ANY) == 0);
}

TEST_CASE("when AddPod returns, the next heterod's listener knows what is open", "[netns]") {
  struct Row {
    Mechanism mechanism;
    bool other_layout;
  };
  for (const Row& row :
       {Row{Mechanism::kBpf, false}, Row{Mechanism::kBpf, true}, Row{Mechanism::kPlaceholder, false}}) {
    INFO("mechanism " << static_cast<int>(row.mechanism) << (row.other_layout ? ", another layout" : ""));
    TwoPus pus(/*start=*/true, row.mechanism);
    Pu& dpu = pus.dpu();
    std::vector<sys::UniqueFd> listeners;
    for (int i = 0; i < 3; ++i) listeners.push_back(Listening(dpu, kLocalhost));
    pus.AwaitReports(dpu, 3);
    dpu.KillHeterod();
    if (row.other_layout) ChangeMeta(dpu, [](hk_meta& meta) { meta.layout += 1; });
    std::mutex mutex;
    std::set<uint16_t> told;

    REQUIRE_OK(dpu.StartHeterod([&](const PortChange& change) {
      usleep(10'000);
      std::lock_guard lock(mutex);
      told.insert(change.key.port);
    }));

    {
      std::lock_guard lock(mutex);
      CHECK(told.size() == 3);
    }
    dpu.KillHeterod();
  }
}

TEST_CASE("what closed while no heterod ran is not reported as open", "[netns]") {
  TwoPus pus;
  Pu& dpu = pus.dpu();
  sys::UniqueFd first = Listening(dpu, kLocalhost), second = Listening(dpu, kLocalhost);
  PortKey second_key{.address = kLocalhost, .port = PortOf(second)};
  pus.AwaitReports(dpu, 2);
  dpu.KillHeterod();
  first.reset();
  auto ports = NewBpfPorts(dpu.options(), [](const PortChange&) {});
  REQUIRE_OK(ports);

  std::vector<OwnedPort> local = (*ports)->Local(dpu.pod_key);

  REQUIRE(local.size() == 1);
  CHECK(local[0].key == second_key);
}

TEST_CASE("events lost while nobody reads them cost no claim", "[netns]") {
  TwoPus pus;
  Pu& dpu = pus.dpu();
  dpu.KillHeterod();
  sys::UniqueFd restless = Listening(dpu, kLocalhost);
  for (int window = 0; window < 17; ++window) {  // the ring holds 14,563 events
    for (int i = 0; i < HK_WINDOW_EVENTS; i += 2) {
      shutdown(restless.get(), SHUT_RDWR);
      listen(restless.get(), 1);
    }
    usleep(HK_WINDOW_NS / 1000 + 1000);
  }
  restless.reset();
  sys::UniqueFd listener = Listening(dpu, kLocalhost);
  pus.Start(dpu);
  CHECK(dpu.ports->counters().lost_events > 0);
  pus.AwaitTold(dpu, {.address = kLocalhost, .port = PortOf(listener)}, true);
  CHECK(dpu.ports->Local(dpu.pod_key).size() == 1);
  sys::UniqueFd caller = pus.host().Socket(AF_INET, SOCK_STREAM);
  CHECK(Connect(caller, kLocalhost, PortOf(listener)) == 0);
}

TEST_CASE("another object replaces the programs and keeps the maps; another layout starts anew", "[netns]") {
  TwoPus pus;
  Pu& dpu = pus.dpu();
  sys::UniqueFd listener = Listening(dpu, kLocalhost);
  PortKey key{.address = kLocalhost, .port = PortOf(listener)};
  pus.AwaitTold(dpu, key, true);

  dpu.KillHeterod();
  ChangeMeta(dpu, [](hk_meta& meta) { meta.object_hash ^= 1; });
  pus.Start(dpu);
  CHECK(dpu.ports->Local(dpu.pod_key).size() == 1);
  sys::UniqueFd caller = pus.host().Socket(AF_INET, SOCK_STREAM);
  CHECK(Connect(caller, kLocalhost, key.port) == 0);

  dpu.KillHeterod();
  ChangeMeta(dpu, [](hk_meta& meta) { meta.layout += 1; });
  auto ports = NewBpfPorts(dpu.options(), [](const PortChange&) {});
  REQUIRE_OK(ports);
  CHECK((*ports)->ListPods().empty());
  REQUIRE_OK((*ports)->AddPod(dpu.Pod()));
  REQUIRE((*ports)->Local(dpu.pod_key).size() == 1);
  CHECK((*ports)->Local(dpu.pod_key)[0].key == key);
  sys::UniqueFd again = pus.host().Socket(AF_INET, SOCK_STREAM);
  CHECK(Connect(again, kLocalhost, key.port) == 0);
}

TEST_CASE("a claim that closed leaves the map at once, one that came back stays", "[netns]") {
  TwoPus pus;
  Pu& dpu = pus.dpu();
  sys::UniqueFd fd(bpf_obj_get((dpu.options().bpffs + "/maps/local").c_str()));
  auto entries = [&] {
    hk_claim_key key{}, next{};
    int n = 0;
    for (void* from = nullptr; bpf_map_get_next_key(fd.get(), from, &next) == 0; from = &key, key = next) ++n;
    return n;
  };
  sys::UniqueFd gone = Listening(dpu, kLocalhost), back = Listening(dpu, kLocalhost);
  uint16_t port = PortOf(back);
  gone.reset();
  back.reset();
  back = Listening(dpu, kLocalhost, port);
  pus.AwaitReports(dpu, 5);

  CHECK(entries() == 1);
  REQUIRE(dpu.ports->Local(dpu.pod_key).size() == 1);
  CHECK(dpu.ports->Local(dpu.pod_key)[0].key.port == port);
}

TEST_CASE("the 65th program on the cgroup root is an error that says so", "[netns]") {
  // A cgroup of our own, so that nobody else meets the limit.
  Pu pu(fmt::format("hkpl{}", getpid()), pu::Side::kHost);
  auto first = NewBpfPorts(pu.options(), [](const PortChange&) {});
  REQUIRE_OK(first);
  std::string group = fmt::format("{}/hk-limit-{}", (*first)->features().cgroup2, getpid());
  std::filesystem::create_directory(group);
  absl::Status status;
  std::vector<std::string> folders;
  for (int i = 0; i < 65 && status.ok(); ++i) {
    Options options = pu.options();
    options.bpffs += fmt::format("/{}", i);
    options.cgroup2 = group;
    status = NewBpfPorts(options, [](const PortChange&) {}).status();
    folders.push_back(options.bpffs);
  }
  std::filesystem::remove(group);

  CHECK_THAT(status, HasCode(absl::StatusCode::kResourceExhausted));
  CHECK_THAT(status, testing::Says("64 programs"));
}

}  // namespace
}  // namespace heterok8s::ports
