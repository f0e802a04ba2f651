// What takes longer than anybody can say beforehand has its caller's deadline, and ends when the caller gives up:
// heterocri between two runtimes in memory that do not answer.
#include <future>

#include "common/testing/matchers.h"
#include "node-agent/cri/lab/two_fakes.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;
using testing::Eventually;

// Calls of a runtime that are not answered before this goes.
class Held {
 public:
  void Hold(FakeRuntime& runtime, const std::string& method) {
    runtime.On(method, [this](std::shared_ptr<Call> call) {
      call->OnCancel([this] { ++cancelled_; });
      std::lock_guard lock(mutex_);
      calls_.push_back(std::move(call));
    });
  }
  size_t size() {
    std::lock_guard lock(mutex_);
    return calls_.size();
  }
  Deadline earliest() {
    std::lock_guard lock(mutex_);
    Deadline earliest = Deadline::max();
    for (const auto& call : calls_) earliest = std::min(earliest, call->deadline());
    return earliest;
  }
  int cancelled() const { return cancelled_; }

 private:
  std::mutex mutex_;
  std::vector<std::shared_ptr<Call>> calls_;
  std::atomic<int> cancelled_{0};
};

// A call of kubelet's that can be given up.
struct Caller {
  Caller(TwoFakes& node, const std::string& method, const std::string& request) : stub(node.channel()) {
    context.set_deadline(In(std::chrono::hours(2)));
    bytes = ToBuffer(request);
    stub.UnaryCall(&context, method, {}, &bytes, &response, [this](grpc::Status status) { done.set_value(status); });
  }
  ~Caller() { GiveUp(); }
  grpc::Status GiveUp() {
    context.TryCancel();
    return ended.get();
  }

  grpc::GenericStub stub;
  grpc::ClientContext context;
  grpc::ByteBuffer bytes, response;
  std::promise<grpc::Status> done;
  std::shared_future<grpc::Status> ended = done.get_future().share();
};

TEST_CASE("a pull has its caller's deadline, and ends on both PUs when the caller gives up") {
  TwoFakes node;
  Held held;
  const rt::PodSandboxConfig pod = node.PodConfig("web");
  held.Hold(node.host(), "PullImage");
  held.Hold(node.dpu(), "PullImage");
  rt::PullImageRequest pull;
  pull.mutable_image()->set_image("registry.example/large:1");
  *pull.mutable_image()->mutable_annotations() = pod.annotations();
  *pull.mutable_sandbox_config() = pod;

  Caller kubelet(node, kPullImage, pull.SerializeAsString());
  REQUIRE(Eventually([&] { return held.size() == 2; }));
  CHECK(held.earliest() > In(std::chrono::hours(1)));
  kubelet.GiveUp();

  CHECK(Eventually([&] { return held.cancelled() == 2; }));
}

TEST_CASE("a container on the DPU has its whole grace, and its stop ends when the caller gives up") {
  TwoFakes node;
  Held held;
  const rt::PodSandboxConfig pod = node.PodConfig("web");
  const std::string side = node.Create(node.RunPod(pod), pod, "side");
  node.Start(side);
  held.Hold(node.dpu(), "StopContainer");
  rt::StopContainerRequest stop;
  stop.set_container_id(side);
  stop.set_timeout(3600);

  Caller kubelet(node, kStopContainer, stop.SerializeAsString());
  REQUIRE(Eventually([&] { return held.size() == 1; }));
  CHECK(held.earliest() > In(std::chrono::hours(1)));
  kubelet.GiveUp();

  CHECK(Eventually([&] { return held.cancelled() == 1; }));
  CHECK(node.StatusOf(side).state() == rt::CONTAINER_RUNNING);
}

}  // namespace
}  // namespace heterok8s::cri
