// What becomes of the readers when events come faster than they can be described.
#include "node-agent/cri/container_events.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <mutex>
#include <vector>

#include "common/testing/eventually.h"
#include "common/testing/matchers.h"
#include "node-agent/cri/lab/fake_runtime.h"
#include "node-agent/cri/relay.h"
#include "proto/cri/v1/cri.grpc.pb.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

// Changes of a table ─ ContainerEvents ─ Unix ─ a reader; the host's runtime, asked for the Pod of each, does not
// answer before Answer().
struct Scene {
  Scene() {
    host.On("PodSandboxStatus", [this](std::shared_ptr<Call> call) {
      std::lock_guard lock(mutex);
      held.push_back(std::move(call));
    });
    front.On("GetContainerEvents", [this](std::shared_ptr<Call> call) {
      auto out = std::make_shared<OutStream>(call);
      std::weak_ptr<OutStream> weak = out;
      auto end = [this, weak] {
        auto reader = weak.lock();
        if (!reader) return;
        events.Unsubscribe(reader);
        reader->End(grpc::Status::OK);
      };
      out->OnBreak(end);
      call->OnCancel(end);
      events.Subscribe(out);
      ++readers;
    });
    context.set_deadline(In(testing::kPatience));
    stub = rt::RuntimeService::NewStub(UnixChannel(front.socket()));
    reader = stub->GetContainerEvents(&context, rt::GetEventsRequest());
    REQUIRE(testing::Eventually([&] { return readers == 1; }));
  }
  ~Scene() {
    context.TryCancel();
    events.Stop();
    Answer();
    front.Stop();
    host.Stop();
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
  }
  void Happen(size_t count) {
    for (size_t i = 0; i < count; ++i) {
      DpuContainer container;
      container.listed.set_id(fmt::format("container-{}", happened++));
      table.PutContainer(std::move(container));
    }
  }

  size_t asked() {
    std::lock_guard lock(mutex);
    return held.size();
  }
  void Answer() {
    std::lock_guard lock(mutex);
    for (const auto& call : held) call->Fail(grpc::StatusCode::NOT_FOUND, "the Pod is gone");
    held.clear();
  }

  const std::string folder = [] {
    std::string path = fmt::format("/tmp/hk-events-{}", getpid());
    std::filesystem::create_directories(path);
    return path;
  }();
  size_t happened = 0;
  std::mutex mutex;
  std::vector<std::shared_ptr<Call>> held;
  std::atomic<int> readers{0};
  FakeRuntime host{folder + "/host.sock", "0a"}, front{folder + "/front.sock", "0f"};
  CriClient client{UnixChannel(host.socket())};
  PodTable table{folder + "/state"};
  ContainerEvents events{table, client};
  grpc::ClientContext context;
  std::unique_ptr<rt::RuntimeService::Stub> stub;
  std::unique_ptr<grpc::ClientReader<rt::ContainerEventResponse>> reader;
};

TEST_CASE("a reader who would miss an event is told so, by the end of its stream") {
  Scene scene;

  scene.Happen(1);
  REQUIRE(testing::Eventually([&] { return scene.asked() == 1; }));

  scene.Happen(2 * ContainerEvents::kMostWaiting);
  scene.Answer();

  size_t read = 0;
  for (rt::ContainerEventResponse event; scene.reader->Read(&event);) ++read;
  CHECK(read < scene.happened);
  CHECK(scene.reader->Finish().error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED);
}

}  // namespace
}  // namespace heterok8s::cri
