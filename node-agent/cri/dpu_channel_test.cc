// The channel to the DPU over a link that is cut and comes back.
//
//   DpuChannel ── mutual TLS ──▶ Wire ──▶ a server that answers everything
#include <arpa/inet.h>
#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <list>
#include <thread>

#include "common/sys/unique_fd.h"
#include "common/testing/eventually.h"
#include "common/testing/matchers.h"
#include "common/tls/credentials.h"
#include "common/tls/pki.h"
#include "node-agent/cri/daemon.h"

namespace heterok8s::cri {
namespace {

sockaddr_in Loopback(int port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

// Passes bytes of each connection on to `port`, both ways. What was connected before Cut is never answered again and
// never closed, as by a machine that has vanished.
class Wire {
 public:
  explicit Wire(int port) : port_(port), listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = Loopback(0);
    socklen_t size = sizeof address;
    REQUIRE(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size) == 0);
    REQUIRE(listen(listener_.get(), 16) == 0);
    REQUIRE(getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
    number_ = ntohs(address.sin_port);
    threads_.emplace_back([this] { Accept(); });
  }
  ~Wire() {
    shutdown(listener_.get(), SHUT_RDWR);  // ends accept
    threads_.front().join();
    for (Connection& each : connections_) {
      shutdown(each.client.get(), SHUT_RDWR);
      shutdown(each.server.get(), SHUT_RDWR);
    }
    for (auto thread = std::next(threads_.begin()); thread != threads_.end(); ++thread) thread->join();
  }
  int number() const { return number_; }
  void Cut() { ++cuts_; }

 private:
  struct Connection {
    sys::UniqueFd client, server;
    int cuts;
  };
  void Accept() {
    while (true) {
      sys::UniqueFd client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!client.valid()) return;
      sys::UniqueFd server(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      sockaddr_in address = Loopback(port_);
      if (connect(server.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) continue;
      connections_.push_back({std::move(client), std::move(server), cuts_});
      Connection& made = connections_.back();
      threads_.emplace_back([this, &made] { Pass(made.client.get(), made.server.get(), made.cuts); });
      threads_.emplace_back([this, &made] { Pass(made.server.get(), made.client.get(), made.cuts); });
    }
  }
  void Pass(int from, int to, int cuts) {
    char bytes[4096];
    for (ssize_t n; (n = read(from, bytes, sizeof bytes)) > 0;) {
      if (cuts == cuts_ && send(to, bytes, n, MSG_NOSIGNAL) != n) break;
    }
    if (cuts == cuts_) shutdown(to, SHUT_RDWR);
  }

  const int port_;
  sys::UniqueFd listener_;
  int number_ = 0;
  std::atomic<int> cuts_{0};
  std::list<Connection> connections_;
  std::list<std::thread> threads_;  // the first accepts, and makes the others
};

struct Pki {
  Pki() { REQUIRE_OK(tls::InitPki({.dir = folder, .node = "lab"})); }
  ~Pki() { std::filesystem::remove_all(folder); }
  const std::string folder = fmt::format("/tmp/hk-dpu-channel-{}", getpid());
};

TEST_CASE("a DPU behind a link that was cut is reached again, although nothing closed the old connection") {
  const Pki pki;
  const std::string& folder = pki.folder;
  auto credentials = tls::ServerCredentials(
      {.ca = folder + "/ca.crt", .certificate = folder + "/dpu.crt", .key = folder + "/dpu.key"});
  REQUIRE_OK(credentials);
  ByteService service([](std::shared_ptr<Call> call) { call->Finish(grpc::Status::OK, ToBuffer("")); });
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", *credentials, &port);
  // As heterod's.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 50);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.RegisterCallbackGenericService(&service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  REQUIRE(server);
  Wire wire(port);
  HeterocriConfig config;
  config.dpu_address = fmt::format("127.0.0.1:{}", wire.number());
  config.ca = folder + "/ca.crt";
  config.certificate = folder + "/cri.crt";
  config.key = folder + "/cri.key";
  config.lease_interval = std::chrono::milliseconds(200);
  config.lease_duration = std::chrono::milliseconds(1000);
  auto channel = DpuChannel(config);
  REQUIRE_OK(channel);
  CriClient dpu(*channel);
  auto answers = [&] { return dpu.CallBytes(kVersion, ToBuffer(""), In(std::chrono::seconds(2))).ok(); };
  REQUIRE(testing::Eventually(answers));

  wire.Cut();

  CHECK(testing::Eventually(answers));
  server->Shutdown(std::chrono::system_clock::now());
}

}  // namespace
}  // namespace heterok8s::cri
