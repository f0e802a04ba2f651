// What the two calls of a split ADD take when nothing is done in them.
//
// Purpose: bench/cni adds this to what the kernel alone takes, as the limit of two PUs: heterod's own client and
// server, over mutual TLS, in a process each. `calls_floor COUNT` prints the milliseconds of Prepare and Commit
// together, a line for each of COUNT times, with a pause between them as between two ADDs. Threading, ownership: a
// program of its own. Errors: to standard error, exit status 1.
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "common/tls/pki.h"
#include "node-agent/peer/client.h"
#include "node-agent/peer/server.h"

namespace heterok8s::peer {
namespace {

constexpr std::chrono::milliseconds kPause{20};

class NothingToDo final : public attach::DpuHalf {
 public:
  absl::Status Ready() const override { return absl::OkStatus(); }
  absl::StatusOr<attach::PrepareReply> Prepare(const attach::PrepareRequest&) override {
    return attach::PrepareReply{.netns_path = "/run/netns/hk", .uplink_mac = "02:00:00:00:00:01"};
  }
  absl::Status Commit(const attach::PodGeneration&) override { return absl::OkStatus(); }
  absl::Status CheckHalf(const attach::PodGeneration&) override { return absl::OkStatus(); }
  absl::Status Remove(const attach::PodGeneration&) override { return absl::OkStatus(); }
  absl::StatusOr<attach::SyncReply> Sync(const attach::SyncRequest&) override { return attach::SyncReply{}; }
  std::vector<attach::PodGeneration> Halves() const override { return {}; }
};

tls::Files FilesOf(const std::string& pki, const std::string& name) {
  return {.ca = pki + "/ca.crt", .certificate = pki + "/" + name + ".crt", .key = pki + "/" + name + ".key"};
}

// Serves until it is killed; its port goes to `said`.
absl::Status Serve(const std::string& pki, int said) {
  NothingToDo half;
  Lease lease({});
  Refusals refusals;
  HK_ASSIGN_OR_RETURN(auto server,
                      PeerServer::Start({.listen = "127.0.0.1:0", .files = FilesOf(pki, "dpu"), .node = "floor"},
                                        {.dpu = &half, .lease = &lease, .refusals = &refusals}));
  const int port = server->port();
  if (write(said, &port, sizeof port) != sizeof port) return ErrnoToStatus(errno, "tell the port");
  for (;;) pause();
}

absl::Status Measure(const std::string& pki, int port, int count) {
  Lease lease({});
  HK_ASSIGN_OR_RETURN(auto client, GrpcPeerClient::Create({.address = fmt::format("127.0.0.1:{}", port),
                                                           .files = FilesOf(pki, "host"),
                                                           .server = {.node = "floor", .role = tls::Role::kDpu}},
                                                          lease));
  const IpAddress link = IpAddress::V4(0xa9fe4000);
  attach::PrepareRequest request{.pod_key = "0123abcd-4567-89ef-0123-456789abcdef",
                                 .instance = "floor",
                                 .network = "floor",
                                 .ifname = "eth0",
                                 .addresses = {*IpAddress::Parse("10.88.0.5"), *IpAddress::Parse("fd00:88::5")},
                                 .link = {link, link.Plus(1), link.Plus(2), link.Plus(3)},
                                 .host_ephemeral = {32768, 47103},
                                 .dpu_ephemeral = {47104, 60999}};
  for (int i = -3; i < count; ++i) {  // three to warm up
    std::this_thread::sleep_for(kPause);
    const auto start = std::chrono::steady_clock::now();
    HK_RETURN_IF_ERROR(client->Prepare(request).status());
    HK_RETURN_IF_ERROR(client->Commit({.pod_key = request.pod_key, .generation = request.generation}));
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - start;
    if (i >= 0) fmt::print("{:.4f}\n", took.count());
    ++request.generation;
  }
  return absl::OkStatus();
}

absl::Status Run(const std::string& pki, int count) {
  HK_RETURN_IF_ERROR(tls::InitPki({.dir = pki, .node = "floor"}));
  int said[2];
  if (pipe(said) != 0) return ErrnoToStatus(errno, "pipe");
  const pid_t server = fork();  // before gRPC has threads
  if (server < 0) return ErrnoToStatus(errno, "fork");
  if (server == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    absl::Status failed = Serve(pki, said[1]);
    fmt::print(stderr, "calls_floor: {}\n", ToString(failed));
    _exit(1);
  }
  close(said[1]);
  int port = 0;
  absl::Status done = read(said[0], &port, sizeof port) == sizeof port
                          ? Measure(pki, port, count)
                          : absl::InternalError("the server did not start");
  kill(server, SIGKILL);
  waitpid(server, nullptr, 0);
  return done;
}

}  // namespace
}  // namespace heterok8s::peer

int main(int argc, char** argv) {
  const int count = argc == 2 ? atoi(argv[1]) : 0;
  char folder[] = "/tmp/hk-calls-XXXXXX";
  if (count <= 0 || mkdtemp(folder) == nullptr) {
    fmt::print(stderr, "calls_floor COUNT\n");
    return 2;
  }
  absl::Status done = heterok8s::peer::Run(folder, count);
  std::filesystem::remove_all(folder);
  if (!done.ok()) fmt::print(stderr, "calls_floor: {}\n", heterok8s::ToString(done));
  return done.ok() ? 0 : 1;
}
