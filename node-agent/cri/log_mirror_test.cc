// A writer on the "DPU" ── DpuRuntimeService ── gRPC ── LogMirror ── the file on the "host"
#include "node-agent/cri/log_mirror.h"

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <set>
#include <thread>

#include "common/fault/fault.h"
#include "common/sys/file.h"
#include "common/testing/eventually.h"
#include "common/testing/matchers.h"
#include "node-agent/cri/dpu_runtime.h"

namespace heterok8s::cri {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using testing::Eventually;

struct Wire {
  Wire() {
    char name[] = "/tmp/hk-mirror-XXXXXX";
    folder = mkdtemp(name);
    fs::create_directories(folder + "/dpu/pod/c");
    fs::create_directories(folder + "/host");
    Serve();
    Connect();
  }
  ~Wire() {
    mirror.reset();
    server->Shutdown(std::chrono::system_clock::now());
    fs::remove_all(folder);
  }
  void Serve() {
    auto opened = DpuRuntimeService::Open({.pod_log_root = folder + "/dpu", .volume_root = folder + "/volumes"});
    REQUIRE_OK(opened);
    service = *std::move(opened);
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + folder + "/s", grpc::InsecureServerCredentials());
    builder.RegisterService(service.get());
    server = builder.BuildAndStart();
    REQUIRE(server);
  }
  void Connect() {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 50);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 50);
    stub = v1::DpuRuntime::NewStub(
        grpc::CreateCustomChannel("unix:" + folder + "/s", grpc::InsecureChannelCredentials(), arguments));
    mirror = std::make_unique<LogMirror>(*stub, folder + "/positions", [this] { ++ends; });
  }
  void Ensure(bool running) { mirror->Ensure("id", "pod/c/0.log", host(), running); }
  std::string host() const { return folder + "/host/0.log"; }
  std::string Host(const std::string& name = "0.log") const {
    auto text = sys::ReadFile(folder + "/host/" + name);
    return text.ok() ? *text : "";
  }
  bool HostHas(const std::string& text) {
    return Eventually([&] { return Host() == text; });
  }

  std::string folder;
  std::atomic<int> ends{0};  // of followed logs, as the owner hears of them
  std::unique_ptr<DpuRuntimeService> service;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<v1::DpuRuntime::Stub> stub;
  std::unique_ptr<LogMirror> mirror;
};

TEST_CASE("a log goes on where it was, over restarts of both ends") {
  Wire wire;
  std::ofstream log(wire.folder + "/dpu/pod/c/0.log", std::ios::app);
  log << "one\n" << std::flush;
  wire.Ensure(true);
  REQUIRE(wire.HostHas("one\n"));

  wire.mirror.reset();  // heterocri ends
  log << "two\n" << std::flush;
  wire.Connect();
  wire.Ensure(true);
  REQUIRE(wire.HostHas("one\ntwo\n"));

  wire.server->Shutdown(std::chrono::system_clock::now());  // the DPU's agent ends
  log << "three\n" << std::flush;
  wire.Serve();
  CHECK(Eventually([&] {
    wire.Ensure(true);
    return wire.Host() == "one\ntwo\nthree\n";
  }));
  log << "four\n";
  log.close();
  CHECK(wire.mirror->Drain("id", testing::kPatience));
  CHECK(wire.Host() == "one\ntwo\nthree\nfour\n");
}

TEST_CASE("a rotated log begins with the next line, told or not") {
  Wire wire;
  std::ofstream log(wire.folder + "/dpu/pod/c/0.log", std::ios::app);
  log << "one\n" << std::flush;
  wire.Ensure(true);
  REQUIRE(wire.HostHas("one\n"));

  fs::rename(wire.host(), wire.host() + ".1");
  auto offset = wire.mirror->Reopen("id");
  REQUIRE_OK(offset);
  CHECK(*offset == 4);
  log << "two\n" << std::flush;
  REQUIRE(wire.HostHas("two\n"));
  CHECK(wire.Host("0.log.1") == "one\n");

  wire.mirror.reset();  // rotated while we are not there
  fs::rename(wire.host(), wire.host() + ".2");
  log << "three\n" << std::flush;
  wire.Connect();
  wire.Ensure(true);
  REQUIRE(wire.HostHas("three\n"));
}

TEST_CASE("a disk of the host that takes no line holds up no call, and no look at the logs") {
  constexpr int kLogs = 17;  // gRPC has at most 16 threads for callbacks (completion_queue_cc.cc)
  Wire wire;
  for (int i = 0; i < kLogs; ++i) std::ofstream(fmt::format("{}/dpu/pod/c/{}.log", wire.folder, i)) << "line\n";
  auto ensure = [&] {
    for (int i = 0; i < kLogs; ++i) {
      wire.mirror->Ensure(fmt::format("id{}", i), fmt::format("pod/c/{}.log", i),
                          fmt::format("{}/host/{}.log", wire.folder, i), true);
    }
  };
  std::promise<void> disk_works;
  std::shared_future<void> works = disk_works.get_future().share();
  std::atomic<int> stuck{0};
  fault::ScopedAction stalled("cri.log.after-append", [&] {
    ++stuck;
    works.wait();
    return absl::OkStatus();
  });
  ensure();
  REQUIRE(Eventually([&] { return stuck > 0; }));

  std::atomic<bool> answered{false}, looked{false};
  grpc::ClientContext context;
  v1::PrepareLogRequest request;
  request.set_path("pod/other/0.log");
  v1::PrepareLogReply reply;
  wire.stub->async()->PrepareLog(&context, &request, &reply, [&](const grpc::Status&) { answered = true; });
  std::thread look([&] {
    ensure();
    looked = true;
  });
  CHECK(Eventually([&] { return answered && looked; }));

  disk_works.set_value();
  look.join();
  CHECK(Eventually([&] { return stuck == kLogs && answered; }));
  CHECK(Eventually([&] { return wire.Host("16.log") == "line\n"; }));
}

TEST_CASE("a log whose end the DPU lost with its power is here once, and complete") {
  Wire wire;
  const std::string path = wire.folder + "/dpu/pod/c/0.log";
  std::ofstream(path) << "one\ntwo\nthree\n";
  wire.Ensure(true);
  REQUIRE(wire.HostHas("one\ntwo\nthree\n"));
  wire.mirror.reset();
  fs::resize_file(path, 6);
  wire.Connect();

  wire.Ensure(false);

  CHECK(wire.mirror->Drain("id", testing::kPatience));
  CHECK(wire.Host() == "one\ntwo\nthree\n");
}

TEST_CASE("a log that somebody cuts off while its container writes goes on with what is written then") {
  Wire wire;
  std::ofstream log(wire.folder + "/dpu/pod/c/0.log", std::ios::app);
  log << "a long first life\n" << std::flush;
  wire.Ensure(true);
  REQUIRE(wire.HostHas("a long first life\n"));

  fs::resize_file(wire.folder + "/dpu/pod/c/0.log", 0);
  log << "second\n" << std::flush;

  CHECK(Eventually([&] {
    wire.Ensure(true);
    return wire.Host() == "a long first life\nsecond\n";
  }));
}

TEST_CASE("a rotation that fails half-way loses no line: kubelet puts the former file back") {
  Wire wire;
  std::ofstream log(wire.folder + "/dpu/pod/c/0.log", std::ios::app);
  log << "one\n" << std::flush;
  wire.Ensure(true);
  REQUIRE(wire.HostHas("one\n"));

  const std::string position = wire.folder + "/positions/id.position";
  REQUIRE(fs::is_regular_file(position));
  fs::rename(wire.host(), wire.host() + ".1");
  fs::rename(position, position + ".aside");
  fs::create_directory(position);  // as a full disk: the position cannot be written
  CHECK(!wire.mirror->Reopen("id").ok());
  fs::remove(position);
  fs::rename(position + ".aside", position);
  fs::rename(wire.host() + ".1", wire.host());

  log << "two\n" << std::flush;
  CHECK(Eventually([&] {
    wire.Ensure(true);
    return wire.Host() == "one\ntwo\n";
  }));
  fs::rename(wire.host(), wire.host() + ".1");
  CHECK(wire.mirror->Reopen("id").value_or(0) == 8);
  log << "three\n" << std::flush;
  CHECK(wire.HostHas("three\n"));
}

TEST_CASE("a container that has closed its outputs and goes on does not keep its owner busy") {
  Wire wire;
  std::ofstream(wire.folder + "/dpu/pod/c/0.log") << "all that it says\n";
  for (int i = 0; i < 30; ++i) {  // as the owner does when it is told and finds the container running
    const int before = wire.ends;
    wire.Ensure(true);
    Eventually([&] { return wire.ends > before; }, milliseconds(300));
  }
  CHECK(wire.ends > 0);
  CHECK(wire.ends <= 11);
}

TEST_CASE("a forgotten log leaves no position, and a path that leaves the log root brings nothing") {
  Wire wire;
  std::ofstream(wire.folder + "/dpu/pod/c/0.log") << "x\n";
  wire.Ensure(false);
  REQUIRE(wire.mirror->Drain("id", testing::kPatience));
  wire.mirror->Forget("id");
  CHECK(fs::is_empty(wire.folder + "/positions"));
  std::ofstream(wire.folder + "/secret") << "secret\n";
  wire.mirror->Ensure("evil", "../secret", wire.host(), false);
  CHECK(!wire.mirror->Drain("evil", milliseconds(300)));
  CHECK(wire.Host() == "x\n");
}

TEST_CASE("of containers that went while nobody looked no position stays") {
  Wire wire;
  std::ofstream(wire.folder + "/dpu/pod/c/0.log") << "x\n";
  wire.Ensure(false);
  REQUIRE(wire.mirror->Drain("id", testing::kPatience));
  wire.mirror.reset();
  for (const char* name : {"gone.position", "other.position", "other.position.a1B2c3"})
    std::ofstream(wire.folder + "/positions/" + name) << "";

  wire.Connect();
  std::ofstream(wire.folder + "/host/other.position") << "";
  wire.mirror->Forget("../host/other");
  CHECK(fs::exists(wire.folder + "/host/other.position"));
  wire.mirror->KeepOnly({"id", "other"});

  std::set<std::string> left;
  for (const auto& entry : fs::directory_iterator(wire.folder + "/positions")) left.insert(entry.path().filename());
  CHECK(left == std::set<std::string>{"id.position", "other.position"});
  wire.mirror->Forget("other");  // which no life of this mirror has read
  CHECK(!fs::exists(wire.folder + "/positions/other.position"));
}

}  // namespace
}  // namespace heterok8s::cri
