// A termination message on its way:  file of the DPU's volume ─ DpuRuntimeService ─ gRPC ─ kubelet's file.
#include "node-agent/cri/termination.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "common/sys/file.h"
#include "common/testing/eventually.h"
#include "common/testing/matchers.h"
#include "node-agent/cri/annotations.h"
#include "node-agent/cri/dpu_runtime.h"

namespace heterok8s::cri {
namespace {

namespace fs = std::filesystem;

struct Ended {
  Ended() {
    auto opened = DpuRuntimeService::Open(
        {.pod_log_root = root / "logs", .volume_root = root / "dpu", .cgroups = PodCgroups("", nullptr)});
    REQUIRE_OK(opened);
    service = *std::move(opened);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service.get());
    server = builder.BuildAndStart();
    REQUIRE(server);
    stub = v1::DpuRuntime::NewStub(
        grpc::CreateChannel(fmt::format("127.0.0.1:{}", port), grpc::InsecureChannelCredentials()));

    fs::create_directories(fs::path(on_host()).parent_path());
    std::ofstream(on_host()) << "";
    v1::PutVolumeRequest put;
    put.set_pod_uid("uid");
    put.set_volume("termination");
    v1::VolumeEntry& entry = *put.add_entries();
    entry.set_uid(geteuid());
    entry.set_gid(getegid());
    entry.set_mode(0600);
    grpc::ClientContext context;
    v1::PutVolumeReply reply;
    REQUIRE(stub->PutVolume(&context, put, &reply).ok());
    on_dpu = reply.path();
    auto& mount = *container.status.add_mounts();
    mount.set_container_path("/dev/termination-log");
    mount.set_host_path(on_dpu);
    (*container.listed.mutable_annotations())[kTerminationLog] = "/dev/termination-log=" + on_host();
  }
  ~Ended() {
    server->Shutdown();
    std::error_code ignored;
    fs::remove_all(root, ignored);
  }
  std::string on_host() const { return root / "pods/uid/containers/side/abcd"; }
  std::string Brought(const std::string& message) {
    std::ofstream(on_dpu) << message;
    CHECK(BringTerminationLog(*stub, container, "uid", std::chrono::system_clock::now() + testing::kPatience));
    auto text = sys::ReadFile(on_host());
    return text.ok() ? *text : ToString(text.status());
  }

  fs::path root = fs::temp_directory_path() / fmt::format("hk-termination-{}", getpid());
  std::unique_ptr<DpuRuntimeService> service;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<v1::DpuRuntime::Stub> stub;
  std::string on_dpu;
  DpuContainer container;
};

TEST_CASE("a termination message is brought to kubelet's file, the end of a very long one") {
  Ended ended;
  CHECK(ended.Brought("all went well") == "all went well");

  const std::string message = ended.Brought(std::string(200 << 10, 'x') + "the reason");

  CHECK(message.size() == 64 << 10);
  CHECK(message.ends_with("xxthe reason"));
}

}  // namespace
}  // namespace heterok8s::cri
