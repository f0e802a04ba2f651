// Server and shim together, over a real socket, on an engine that is a map.
#include "node-agent/cni_server/server.h"

#include <fmt/format.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <future>
#include <set>

#include "cni/shim.h"
#include "common/cni/wire.h"
#include "common/sys/file.h"
#include "common/sys/unique_fd.h"
#include "common/testing/matchers.h"
#include "node-agent/cni_server/fake_engine.h"

namespace heterok8s::cni_server {
namespace {

using testing::HasCode;
using testing::Says;
using Calls = std::vector<std::string>;

struct Bench {
  Bench() {
    char name[] = "/tmp/hkcnisrvXXXXXX";
    REQUIRE(mkdtemp(name) != nullptr);
    folder = name;
  }
  ~Bench() {
    engine.hold.Open();
    server.reset();
    std::filesystem::remove_all(folder);
  }

  void Serve(int workers = 4) {
    server = std::make_unique<Server>(Options{.socket_path = folder + "/cni.sock",
                                              .queue_dir = folder + "/queue",
                                              .workers = workers,
                                              .on_call =
                                                  [this](const CallReport& report) {
                                                    std::lock_guard lock(mutex);
                                                    reports.push_back(report);
                                                  }},
                                      engine);
    REQUIRE_OK(server->Start());
  }
  std::map<std::string, std::string> Environment(const std::string& command, const std::string& id) const {
    return {{"CNI_COMMAND", command}, {"CNI_CONTAINERID", id}, {"CNI_NETNS", folder + "/gone"}, {"CNI_IFNAME", "eth0"}};
  }
  std::string Config(const std::string& fields = "") const {
    return fmt::format(
        R"({{"cniVersion":"1.1.0","name":"n","type":"t","socket":"{0}/cni.sock","queueDir":"{0}/queue"{1}}})", folder,
        fields);
  }
  cni::Outcome Call(const std::string& command, const std::string& id, const std::string& fields = "") const {
    return cni::HandleCall(Environment(command, id), [&]() -> absl::StatusOr<std::string> { return Config(fields); });
  }
  // A shim that has sent its call and not yet read the answer.
  sys::UniqueFd Send(const std::string& command, const std::string& id) const {
    sockaddr_un address = {.sun_family = AF_UNIX};
    std::string path = folder + "/cni.sock";
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    sys::UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    REQUIRE(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    std::string text = *cni::EncodeRequest({.environment = Environment(command, id), .stdin_text = Config()});
    REQUIRE_OK(cni::WriteFrame(fd.get(), text, std::chrono::steady_clock::now() + std::chrono::seconds(60)));
    return fd;
  }
  size_t queued() const {
    std::error_code none;
    auto files = std::filesystem::directory_iterator(folder + "/queue", none);
    return none ? 0 : static_cast<size_t>(std::distance(begin(files), end(files)));
  }

  std::string folder;
  FakeEngine engine;
  std::mutex mutex;
  std::vector<CallReport> reports;
  std::unique_ptr<Server> server;
};

int CodeIn(const cni::Outcome& outcome) { return nlohmann::json::parse(outcome.stdout_text).at("code"); }

TEST_CASE("a call goes through shim and server to the engine and its answer back") {
  Bench bench;
  bench.Serve();

  cni::Outcome add = bench.Call("ADD", "c1");
  cni::Outcome check = bench.Call("CHECK", "c1", R"(,"prevResult":{})");
  cni::Outcome again = bench.Call("ADD", "c1");
  cni::Outcome del = bench.Call("DEL", "c1");
  cni::Outcome status = bench.Call("STATUS", "c1");

  CHECK(add.exit_code == 0);
  CHECK(nlohmann::json::parse(add.stdout_text)["ips"][0]["address"] == "10.88.0.5/32");
  CHECK(check.exit_code == 0);
  CHECK(check.stdout_text.empty());
  CHECK(again.exit_code == 1);
  CHECK(CodeIn(again) == cni::kInterfaceExists);
  CHECK(del.exit_code == 0);
  CHECK(del.stdout_text.empty());
  CHECK(status.exit_code == 0);
  bench.server.reset();
  REQUIRE(bench.reports.size() == 5);
  CHECK(bench.reports[2].command == cni::Command::kAdd);
  CHECK(bench.reports[2].code == cni::kInterfaceExists);
}

TEST_CASE("a chained ADD answers the former result and ours") {
  Bench bench;
  bench.Serve();

  cni::Outcome add =
      bench.Call("ADD", "c1", R"(,"prevResult":{"interfaces":[{"name":"a"}],"ips":[{"address":"1.2.3.4/8"}]})");

  nlohmann::json json = nlohmann::json::parse(add.stdout_text);
  CHECK(json["interfaces"].size() == 2);
  CHECK(json["ips"][1]["interface"] == 1);
}

TEST_CASE("GC without a list of valid attachments frees nothing") {
  Bench bench;
  bench.Serve();

  CHECK(bench.Call("GC", "").exit_code == 0);
  CHECK(bench.Call("GC", "", R"(,"cni.dev/attachments":[])").exit_code == 0);

  CHECK(bench.engine.WaitForCalls(1) == Calls{"GC  eth0"});
}

TEST_CASE("without heterod every verb has an answer at once, and DEL is queued") {
  Bench bench;

  CHECK(CodeIn(bench.Call("ADD", "c1")) == cni::kTryAgainLater);
  CHECK(CodeIn(bench.Call("STATUS", "c1")) == cni::kNotAvailable);
  CHECK(bench.Call("GC", "c1").exit_code == 0);
  cni::Outcome del = bench.Call("DEL", "c1");
  CHECK(del.exit_code == 0);
  CHECK(del.stdout_text.empty());
  CHECK(bench.Call("DEL", "c1").exit_code == 0);
  CHECK(bench.queued() == 1);
}

TEST_CASE("queued DELs are carried out before the first ADD is accepted") {
  Bench bench;
  bench.Call("DEL", "c1");
  bench.Call("DEL", "c2");

  bench.Serve();
  bench.Call("ADD", "c1");

  CHECK(bench.engine.WaitForCalls(3) == Calls{"DEL c1 eth0", "DEL c2 eth0", "ADD c1 eth0"});
  CHECK(bench.queued() == 0);
  CHECK(bench.engine.attached() == 1);
}

TEST_CASE("a DEL that is queued while heterod runs is carried out when its file appears") {
  Bench bench;
  bench.Serve();
  bench.Call("ADD", "c1");
  std::string text = *cni::EncodeRequest({.environment = bench.Environment("DEL", "c1"), .stdin_text = bench.Config()});

  REQUIRE_OK(sys::WriteFileAtomic(bench.folder + "/queue/" + cni::QueueFileName("n", "c1", "eth0"), text, 0600));

  CHECK(bench.engine.WaitForCalls(2).back() == "DEL c1 eth0");
  bench.server.reset();
  CHECK(bench.queued() == 0);
  CHECK(bench.engine.attached() == 0);
}

TEST_CASE("a queued DEL that fails is kept, and goes before the next ADD of its attachment") {
  Bench bench;
  bench.Call("DEL", "c1");
  bench.engine.FailNext(absl::UnavailableError("not now"));

  bench.Serve();
  CHECK(bench.queued() == 1);
  CHECK(bench.Call("ADD", "c1").exit_code == 0);

  CHECK(bench.engine.WaitForCalls(3) == Calls{"DEL c1 eth0", "DEL c1 eth0", "ADD c1 eth0"});
  CHECK(bench.queued() == 0);
  CHECK(bench.engine.attached() == 1);
}

TEST_CASE("a queue file that is no DEL is set aside and does not stop the others") {
  Bench bench;
  bench.Call("DEL", "c1");
  REQUIRE_OK(sys::WriteFileAtomic(bench.folder + "/queue/a.del", "nonsense", 0600));
  std::string add = *cni::EncodeRequest({.environment = bench.Environment("ADD", "c9"), .stdin_text = bench.Config()});
  REQUIRE_OK(sys::WriteFileAtomic(bench.folder + "/queue/b.del", add, 0600));

  bench.Serve();

  CHECK(bench.engine.WaitForCalls(1) == Calls{"DEL c1 eth0"});
  CHECK(std::filesystem::exists(bench.folder + "/queue/a.del.bad"));
  CHECK(std::filesystem::exists(bench.folder + "/queue/b.del.bad"));
  CHECK(bench.queued() == 2);
}

TEST_CASE("an ADD whose caller was killed is undone") {
  Bench bench;
  bench.Serve();
  bench.engine.hold.Close();
  sys::UniqueFd shim = bench.Send("ADD", "c1");
  bench.engine.WaitForCalls(1);

  shim.reset();
  bench.engine.hold.Open();

  CHECK(bench.engine.WaitForCalls(2) == Calls{"ADD c1 eth0", "DEL c1 eth0"});
  bench.server.reset();
  CHECK(bench.engine.attached() == 0);
}

TEST_CASE("an ADD whose caller was killed before its turn is not begun") {
  Bench bench;
  bench.Serve(/*workers=*/1);
  bench.engine.hold.Close();
  sys::UniqueFd busy = bench.Send("STATUS", "c0");
  bench.engine.WaitForCalls(1);
  { sys::UniqueFd shim = bench.Send("ADD", "c1"); }
  sys::UniqueFd last = bench.Send("STATUS", "c2");

  bench.engine.hold.Open();

  CHECK(bench.engine.WaitForCalls(2) == Calls{"STATUS c0 eth0", "STATUS c2 eth0"});
}

TEST_CASE("calls for one attachment run one after the other, others side by side") {
  Bench bench;
  bench.Serve();
  bench.engine.hold.Close();
  sys::UniqueFd first = bench.Send("ADD", "c1");
  bench.engine.WaitForCalls(1);
  sys::UniqueFd second = bench.Send("DEL", "c1");
  sys::UniqueFd other = bench.Send("ADD", "c2");

  CHECK(bench.engine.WaitForCalls(2) == Calls{"ADD c1 eth0", "ADD c2 eth0"});
  bench.engine.hold.Open();
  CHECK(bench.engine.WaitForCalls(3).back() == "DEL c1 eth0");
}

TEST_CASE("many shims at once are all served") {
  Bench bench;
  bench.Serve();
  std::vector<std::future<cni::Outcome>> calls;
  for (int i = 0; i < 64; ++i) {
    calls.push_back(std::async(std::launch::async, [&bench, i] { return bench.Call("ADD", fmt::format("c{}", i)); }));
  }

  for (auto& call : calls) CHECK(call.get().exit_code == 0);
  CHECK(bench.engine.attached() == 64);
}

TEST_CASE("a second server on the same socket is refused, a dead one's socket is taken over") {
  Bench bench;
  bench.Serve();
  struct stat info;
  REQUIRE(stat((bench.folder + "/cni.sock").c_str(), &info) == 0);
  CHECK((info.st_mode & 0777) == 0600);
  Options same{.socket_path = bench.folder + "/cni.sock", .queue_dir = bench.folder + "/queue"};

  CHECK_THAT(Server(same, bench.engine).Start(), Says("another process serves"));
  bench.server.reset();
  { std::ofstream left(bench.folder + "/cni.sock"); }

  bench.Serve();
  CHECK(bench.Call("STATUS", "c1").exit_code == 0);
}

}  // namespace
}  // namespace heterok8s::cni_server
