// Calls in an order that the server's threads make only now and then.
#include "node-agent/cni_server/calls.h"

#include <stdlib.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "common/sys/file.h"
#include "common/testing/matchers.h"
#include "node-agent/cni_server/fake_engine.h"

namespace heterok8s::cni_server {
namespace {

std::string NewFolder() {
  char name[] = "/tmp/hkcnicallsXXXXXX";
  REQUIRE(mkdtemp(name) != nullptr);
  return name;
}

struct Bench {
  ~Bench() { std::filesystem::remove_all(folder); }

  cni::WireRequest Request(const std::string& command) const {
    return {.environment = {{"CNI_COMMAND", command},
                            {"CNI_CONTAINERID", "c1"},
                            {"CNI_NETNS", folder + "/gone"},
                            {"CNI_IFNAME", "eth0"}},
            .stdin_text = R"({"cniVersion":"1.1.0","name":"n","type":"t"})"};
  }
  std::string QueueFile() const { return folder + "/" + cni::QueueFileName("n", "c1", "eth0"); }
  void Queue() const { REQUIRE_OK(sys::WriteFileAtomic(QueueFile(), *cni::EncodeRequest(Request("DEL")), 0600)); }
  absl::Status Serve(const std::string& command, const std::string& queue_file = "") {
    return calls.Serve(Request(command), {.arrived = std::chrono::steady_clock::now(),
                                          .is_gone = [] { return false; },
                                          .deliver = [](const cni::WireReply&) { return true; },
                                          .queue_file = queue_file});
  }

  const std::string folder = NewFolder();
  FakeEngine engine;
  Calls calls{engine, folder, nullptr};
};

TEST_CASE("a queued DEL that an ADD settled after it was read leaves the new attachment alone") {
  Bench bench;
  bench.Queue();  // and the replay reads it
  REQUIRE_OK(bench.Serve("ADD"));
  REQUIRE_FALSE(std::filesystem::exists(bench.QueueFile()));

  CHECK_OK(bench.Serve("DEL", bench.QueueFile()));

  CHECK(bench.engine.WaitForCalls(2) == std::vector<std::string>{"DEL c1 eth0", "ADD c1 eth0"});
  CHECK(bench.engine.attached() == 1);
}

TEST_CASE("a queued DEL is carried out once, and its file goes with it") {
  Bench bench;
  REQUIRE_OK(bench.Serve("ADD"));
  bench.Queue();

  CHECK_OK(bench.Serve("DEL", bench.QueueFile()));

  CHECK(bench.engine.attached() == 0);
  CHECK_FALSE(std::filesystem::exists(bench.QueueFile()));
}

TEST_CASE("a queued DEL that fails stays in its file") {
  Bench bench;
  bench.Queue();
  bench.engine.FailNext(absl::UnavailableError("not now"));

  CHECK_THAT(bench.Serve("DEL", bench.QueueFile()), testing::HasCode(absl::StatusCode::kUnavailable));

  CHECK(std::filesystem::exists(bench.QueueFile()));
}

}  // namespace
}  // namespace heterok8s::cni_server
