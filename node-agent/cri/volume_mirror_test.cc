// A volume as kubelet changes it, and its copy:  folder ─ VolumeMirror ─ gRPC ─ DpuRuntimeService ─ folder.
#include "node-agent/cri/volume_mirror.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <thread>

#include "common/fault/fault.h"
#include "common/sys/file.h"
#include "common/testing/eventually.h"
#include "common/testing/matchers.h"
#include "node-agent/cri/dpu_runtime.h"
#include "node-agent/cri/volume_reader.h"

namespace heterok8s::cri {
namespace {

namespace fs = std::filesystem;
using testing::Eventually;

// A volume by kubelet's own steps: a new folder, the link "..data" in one step, the names, the old folder.
struct Kubelet {
  explicit Kubelet(fs::path at) : at(std::move(at)) { fs::create_directories(this->at); }
  void Put(const std::map<std::string, std::string>& files, mode_t mode = 0644) {
    std::string version = fmt::format("..2026_{}", ++versions);
    fs::create_directories(at / version);
    for (const auto& [name, text] : files) {
      std::ofstream(at / version / name) << text;
      chmod((at / version / name).c_str(), mode);
    }
    fs::path old = fs::is_symlink(at / "..data") ? fs::read_symlink(at / "..data") : fs::path();
    fs::create_symlink(version, at / "..data_tmp");
    fs::rename(at / "..data_tmp", at / "..data");
    for (const auto& [name, text] : files) {
      if (!fs::is_symlink(at / name)) fs::create_symlink("..data/" + name, at / name);
    }
    for (const auto& entry : fs::directory_iterator(at)) {
      std::string name = entry.path().filename();
      if (name.rfind("..", 0) != 0 && !files.contains(name)) fs::remove(entry.path());
    }
    if (!old.empty()) fs::remove_all(at / old);
  }
  fs::path at;
  int versions = 0;
};

struct Pair {
  Pair() {
    // On a disk: a volume that lies in memory, as /tmp may, has a copy in memory (volume_memory_test).
    root = fs::path("/var/tmp") / fmt::format("hk-volume-mirror-{}", getpid());
    auto opened = DpuRuntimeService::Open({.pod_log_root = root / "logs", .volume_root = root / "dpu"});
    REQUIRE_OK(opened);
    service = *std::move(opened);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service.get());
    server = builder.BuildAndStart();
    stub = v1::DpuRuntime::NewStub(
        grpc::CreateChannel(fmt::format("127.0.0.1:{}", port), grpc::InsecureChannelCredentials()));
    Start();
  }
  void Start() {
    mirror = std::make_unique<VolumeMirror>(*stub, root / "state", [this] { return here.load(); });
    REQUIRE_OK(mirror->Start());
  }
  ~Pair() {
    mirror.reset();
    grpc::ClientContext context;
    v1::RemovePodRequest request;
    request.set_pod_uid("uid");
    v1::RemovePodReply reply;
    CHECK(stub->RemovePod(&context, request, &reply).ok());  // memory, too, where /var/tmp is in memory
    server->Shutdown(std::chrono::system_clock::now());
    fs::remove_all(root);
  }
  // As CreateContainer does: put, then follow. Returns the copy.
  fs::path Put(const Kubelet& volume) {
    auto request = ReadVolume(volume.at);
    REQUIRE_OK(request);
    request->set_pod_uid("uid");
    request->set_volume("conf");
    request->set_live(true);
    grpc::ClientContext context;
    v1::PutVolumeReply reply;
    REQUIRE(stub->PutVolume(&context, *request, &reply).ok());
    REQUIRE_OK(mirror->Follow("uid", "conf", volume.at));
    return reply.path();
  }

  fs::path root;
  std::atomic<bool> here{true};
  std::unique_ptr<DpuRuntimeService> service;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<v1::DpuRuntime::Stub> stub;
  std::unique_ptr<VolumeMirror> mirror;
};

std::string Text(const fs::path& path) { return sys::ReadFile(path).value_or("(none)"); }

TEST_CASE("a volume that kubelet changes while it is read is read again, as it is then") {
  const fs::path root = fs::temp_directory_path() / fmt::format("hk-volume-reader-{}", getpid());
  Kubelet volume(root / "cm");
  volume.Put({{"key", "one"}});
  int reads = 0;
  fault::ScopedAction changes("cri.volume.folder-read", [&] {
    if (++reads <= 3) volume.Put({{"key", fmt::format("{}", reads)}});
    return absl::OkStatus();
  });

  auto read = ReadVolume(volume.at);

  REQUIRE_OK(read);
  const std::string version = fmt::format("..2026_{}/key", volume.versions);
  CHECK(std::any_of(read->entries().begin(), read->entries().end(),
                    [&](const v1::VolumeEntry& entry) { return entry.path() == version && entry.data() == "3"; }));
  CHECK_THAT(ReadVolume(root / "none").status(), testing::HasCode(absl::StatusCode::kNotFound));
  fs::remove_all(root);
}

TEST_CASE("a copy follows its volume: values, modes, new names and names that are gone") {
  Pair pair;
  Kubelet volume(pair.root / "conf");
  volume.Put({{"a", "1"}, {"b", "1"}});
  fs::path copy = pair.Put(volume);
  CHECK(Text(copy / "a") == "1");

  volume.Put({{"a", "2"}, {"c", "2"}}, 0400);

  CHECK(Eventually([&] { return Text(copy / "a") == "2" && Text(copy / "c") == "2" && !fs::exists(copy / "b"); }));
  CHECK((fs::status(copy / "a").permissions() & fs::perms::mask) == fs::perms::owner_read);
  CHECK(fs::read_symlink(copy / "a") == "..data/a");
  CHECK(Eventually([&] { return std::distance(fs::directory_iterator(copy), {}) == 4; }));  // a, c, ..data, one version
  CHECK(pair.Put(volume) == copy);
}

TEST_CASE("a reader of the copy sees all files of one version") {
  Pair pair;
  Kubelet volume(pair.root / "conf");
  volume.Put({{"a", "0"}, {"b", "0"}});
  fs::path copy = pair.Put(volume);
  std::atomic<bool> stop{false};
  std::atomic<int> mixed = 0, seen = 0;
  std::thread reader([&] {
    // As a program that takes kubelet's promise: open the version once, read all of it.
    while (!stop) {
      std::error_code error;
      fs::path version = fs::read_symlink(copy / "..data", error);
      std::string a = Text(copy / version / "a"), b = Text(copy / version / "b");
      if (a == "(none)" || b == "(none)") continue;  // an older one, which has just gone
      ++seen;
      mixed += a != b;
    }
  });

  for (int i = 1; i <= 20; ++i) {
    volume.Put({{"a", std::to_string(i)}, {"b", std::to_string(i)}});
    CHECK(Eventually([&] { return Text(copy / "a") == std::to_string(i); }));
  }
  CHECK(Eventually([&] { return seen > 0; }));
  stop = true;
  reader.join();

  CHECK(mixed == 0);
}

TEST_CASE("what changes while the DPU is away, or while nobody follows, comes later") {
  Pair pair;
  Kubelet volume(pair.root / "conf");
  volume.Put({{"a", "1"}});
  fs::path copy = pair.Put(volume);

  pair.here = false;
  volume.Put({{"a", "2"}});
  pair.here = true;
  CHECK(Eventually([&] { return Text(copy / "a") == "2"; }));
  pair.mirror.reset();
  volume.Put({{"a", "3"}});
  pair.Start();
  CHECK(Eventually([&] { return Text(copy / "a") == "3"; }));
  volume.Put({{"a", "4"}});
  CHECK(Eventually([&] { return Text(copy / "a") == "4"; }));
}

TEST_CASE("a Pod that is gone is not followed, also over a restart") {
  Pair pair;
  Kubelet volume(pair.root / "conf");
  volume.Put({{"a", "1"}});
  fs::path copy = pair.Put(volume);

  pair.mirror->KeepOnly({"uid"});
  CHECK(fs::exists(fs::symlink_status(pair.root / "state/uid/conf")));
  pair.mirror->KeepOnly({"other"});
  CHECK(!fs::exists(pair.root / "state/uid"));
  uint64_t updates = pair.mirror->updates();
  volume.Put({{"a", "2"}});
  pair.mirror.reset();
  pair.Start();

  CHECK(pair.mirror->updates() == 0);
  CHECK(updates <= 1);
  CHECK(Text(copy / "a") == "1");
}

// Has no room but for the volume "token".
class FullDpu : public v1::DpuRuntime::Service {
 public:
  grpc::Status PutVolume(grpc::ServerContext*, const v1::PutVolumeRequest* request, v1::PutVolumeReply*) override {
    if (request->volume() == "token") {
      token = true;
      return grpc::Status::OK;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // by then the one before is due again
    return {grpc::StatusCode::RESOURCE_EXHAUSTED, "volumes in memory have 8 of 8 MiB"};
  }
  std::atomic<bool> token{false};
};

TEST_CASE("volumes that are refused over and over keep no other from being renewed") {
  const fs::path root = fs::temp_directory_path() / fmt::format("hk-volume-full-{}", getpid());
  Kubelet volume(root / "volume");
  volume.Put({{"a", "1"}});
  FullDpu dpu;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&dpu);
  auto server = builder.BuildAndStart();
  auto stub = v1::DpuRuntime::NewStub(
      grpc::CreateChannel(fmt::format("127.0.0.1:{}", port), grpc::InsecureChannelCredentials()));
  VolumeMirror mirror(*stub, root / "state", [] { return true; });
  REQUIRE_OK(mirror.Start());

  for (const char* name : {"secret-1", "secret-2", "token"}) CHECK_OK(mirror.Follow("uid", name, volume.at));

  CHECK(Eventually([&] { return dpu.token.load(); }));
  mirror.Stop();
  server->Shutdown(std::chrono::system_clock::now());
  fs::remove_all(root);
}

TEST_CASE("an update that was cut short is finished by the next one") {
  Pair pair;
  Kubelet volume(pair.root / "conf");
  volume.Put({{"a", "1"}});
  fs::path copy = pair.Put(volume);
  pair.mirror->ForgetPod("uid");
  // As a crash leaves it: the new version is there, the link is not swapped, and the name of the version is the old
  // one.
  fs::create_directories(copy / "..2026_2");
  std::ofstream(copy / "..2026_2/a") << "half";
  fs::create_directories(copy.parent_path() / ".new-1-1");

  volume.Put({{"a", "2"}});
  CHECK(pair.Put(volume) == copy);

  CHECK(Text(copy / "a") == "2");
  CHECK(std::distance(fs::directory_iterator(copy), {}) == 3);
}

}  // namespace
}  // namespace heterok8s::cri
