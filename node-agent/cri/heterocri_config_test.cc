#include "node-agent/cri/heterocri_config.h"

#include "common/testing/matchers.h"

namespace heterok8s::cri {
namespace {

const std::string kLeast = R"(
dpu:
  address: "192.0.2.2:7443"
  tls: {ca: /p/ca.crt, cert: /p/cri.crt, key: /p/cri.key}
)";

TEST_CASE("a configuration needs the DPU's address and our certificate, and no more") {
  auto config = ParseHeterocriConfig(kLeast, "h.yaml");
  REQUIRE_OK(config);
  CHECK(config->listen == "/run/heterok8s/cri.sock");
  CHECK(config->host_socket == "/run/containerd/containerd.sock");
  CHECK(config->lease_duration.count() == 5000);
  CHECK(config->rules.fallback == Fallback::kHost);
}

TEST_CASE("a wrong configuration is refused with file and key") {
  struct Row {
    std::string text;
    std::string says;
  };
  for (const Row& row : {
           Row{kLeast + "listne: /x\n", "listne"},
           Row{kLeast + "listen: x.sock\n", "'x.sock' is no absolute path"},
           Row{kLeast + "lease: {interval_ms: 1000, duration_ms: 1500}\n", "less than twice"},
           Row{kLeast + "fallback: sometimes\n", "'sometimes' is none of host, pending, fail"},
           Row{kLeast + "log: {level: loud}\n", "'loud' is none of"},
           Row{"listen: /x\n", "dpu"},
           Row{"dpu: [", "h.yaml"},
       }) {
    auto config = ParseHeterocriConfig(row.text, "h.yaml");
    INFO(ToString(config.status()));
    CHECK_THAT(config.status(), testing::HasCode(absl::StatusCode::kInvalidArgument));
    CHECK_THAT(config.status(), testing::Says(row.says));
    CHECK_THAT(config.status(), testing::Says("h.yaml"));
  }
}

}  // namespace
}  // namespace heterok8s::cri
