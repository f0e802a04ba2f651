#include "common/metrics/http_server.h"

#include <arpa/inet.h>
#include <prometheus/counter.h>
#include <prometheus/registry.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>

#include "common/metrics/process.h"
#include "common/metrics/samples.h"
#include "common/sys/unique_fd.h"
#include "common/testing/matchers.h"

namespace heterok8s::metrics {
namespace {

// The whole answer to one GET.
std::string Get(int port, const std::string& path) {
  sys::UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{.sin_family = AF_INET, .sin_port = htons(static_cast<uint16_t>(port))};
  inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
  REQUIRE(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  const std::string request = "GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  REQUIRE(write(fd.get(), request.data(), request.size()) == static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t n; (n = read(fd.get(), buffer, sizeof(buffer))) > 0;) answer.append(buffer, static_cast<size_t>(n));
  return answer;
}

}  // namespace

TEST_CASE("metrics are shown in Prometheus's text format") {
  auto registry = std::make_shared<prometheus::Registry>();
  prometheus::BuildCounter().Name("hk_test_total").Help("h").Register(*registry).Add({{"verb", "ADD"}}).Increment(3);
  auto server = HttpServer::Start({.listen = "127.0.0.1:0", .collectables = {registry}});
  REQUIRE_OK(server);

  const std::string answer = Get((*server)->port(), "/metrics");

  CHECK_THAT(answer, Catch::StartsWith("HTTP/1.1 200 OK\r\n"));
  CHECK_THAT(answer, Catch::Contains("hk_test_total{verb=\"ADD\"} 3"));
}

TEST_CASE("what is read for an answer has an ordinary thread's stack") {
  auto live = std::make_shared<LiveMetrics>([](Samples& samples) {
    char deep[1 << 20];
    std::fill(std::begin(deep), std::end(deep), '1');
    samples.Gauge("hk_deep", "h", std::count(std::begin(deep), std::end(deep), '1'));
  });
  auto server = HttpServer::Start({.listen = "127.0.0.1:0", .collectables = {live}});
  REQUIRE_OK(server);

  CHECK_THAT(Get((*server)->port(), "/metrics"), Catch::Contains("hk_deep 1048576\n"));
}

TEST_CASE("live metrics are read when they are asked for, samples of one name in one family") {
  int value = 1;
  auto live = std::make_shared<LiveMetrics>([&](Samples& samples) {
    samples.Gauge("hk_ports", "h", value, {{"owner", "host"}});
    samples.Gauge("hk_ports", "h", 7, {{"owner", "dpu"}});
  });
  auto server = HttpServer::Start({.listen = "127.0.0.1:0", .collectables = {live}});
  REQUIRE_OK(server);
  value = 2;

  const std::string answer = Get((*server)->port(), "/metrics");

  CHECK_THAT(answer, Catch::Contains("hk_ports{owner=\"host\"} 2\n") && Catch::Contains("hk_ports{owner=\"dpu\"} 7\n"));
  CHECK(answer.find("# TYPE hk_ports gauge") == answer.rfind("# TYPE hk_ports gauge"));
}

TEST_CASE("readyz says why not, healthz does not care") {
  absl::Status ready = absl::UnavailableError("reconciling");
  auto server = HttpServer::Start({.listen = "127.0.0.1:0", .ready = [&] { return ready; }});
  REQUIRE_OK(server);

  CHECK_THAT(Get((*server)->port(), "/readyz"), Catch::StartsWith("HTTP/1.1 503 ") && Catch::EndsWith("reconciling\n"));
  CHECK_THAT(Get((*server)->port(), "/healthz"), Catch::StartsWith("HTTP/1.1 200 "));
  ready = absl::OkStatus();
  CHECK_THAT(Get((*server)->port(), "/readyz"), Catch::StartsWith("HTTP/1.1 200 "));
  CHECK_THAT(Get((*server)->port(), "/else"), Catch::StartsWith("HTTP/1.1 404 "));
}

TEST_CASE("an address that is taken is an error that names it") {
  auto first = HttpServer::Start({.listen = "127.0.0.1:0"});
  REQUIRE_OK(first);

  const std::string taken = "127.0.0.1:" + std::to_string((*first)->port());

  CHECK_THAT(HttpServer::Start({.listen = taken}).status(), testing::Says(taken));
}

TEST_CASE("descriptors that are opened show in the figures") {
  const uint64_t before = ReadProcessFigures().open_files;
  // Many: the servers of other cases may still be closing theirs.
  std::vector<sys::UniqueFd> fds(64);
  for (sys::UniqueFd& fd : fds) fd.reset(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));

  CHECK(ReadProcessFigures().open_files >= before + fds.size() / 2);
  CHECK(ReadProcessFigures().resident_bytes > 0);
}

}  // namespace heterok8s::metrics
