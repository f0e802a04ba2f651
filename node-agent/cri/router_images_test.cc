// Images of split Pods: on both PUs, with the credentials of the call and nothing left of them.
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "common/testing/matchers.h"
#include "node-agent/cri/lab/two_fakes.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

constexpr const char* kImage = "registry.example/private/tool:1";
constexpr const char* kSecret = "s3cr3t-of-the-registry";

// What heterocri logs, at every level, while it lives.
class Logged {
 public:
  Logged() : before_(spdlog::default_logger()) {
    auto logger = std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(text_));
    logger->set_level(spdlog::level::trace);
    spdlog::set_default_logger(logger);
  }
  ~Logged() { spdlog::set_default_logger(before_); }
  std::string text() const { return text_.str(); }

 private:
  std::ostringstream text_;
  std::shared_ptr<spdlog::logger> before_;
};

rt::PullImageRequest Pull(const rt::PodSandboxConfig& pod) {
  rt::PullImageRequest request;
  request.mutable_image()->set_image(kImage);
  *request.mutable_image()->mutable_annotations() = pod.annotations();
  request.mutable_auth()->set_username("user");
  request.mutable_auth()->set_password(kSecret);
  *request.mutable_sandbox_config() = pod;
  return request;
}

void Refuse(FakeRuntime& runtime) {
  runtime.On("PullImage", [](std::shared_ptr<Call> call) {
    call->Fail(grpc::StatusCode::NOT_FOUND, "no match for platform in manifest");
  });
}

bool AnyFileHas(const std::string& folder, const std::string& text) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    std::error_code gone;  // heterocri replaces files meanwhile
    if (!entry.is_regular_file(gone)) continue;
    std::stringstream content;
    content << std::ifstream(entry.path()).rdbuf();
    if (content.str().find(text) != std::string::npos) return true;
  }
  return false;
}

TEST_CASE("the image of a split Pod is pulled once on each PU, with the credentials, which are kept nowhere") {
  Logged logged;
  {
    TwoFakes node;
    rt::PodSandboxConfig pod = node.PodConfig("web");
    node.RunPod(pod);
    if (GENERATE(false, true)) Refuse(node.dpu());  // what failed is logged

    auto response = node.Call<rt::PullImageResponse>(kPullImage, Pull(pod));

    CHECK(response.image_ref() == "sha256:0a");  // the host's: the one that kubelet will see in ListImages
    for (FakeRuntime* runtime : {&node.host(), &node.dpu()}) {
      std::vector<std::string> asked = runtime->Asked("PullImage");
      REQUIRE(asked.size() == 1);
      rt::PullImageRequest request;
      REQUIRE(request.ParseFromString(asked[0]));
      CHECK(request.auth().password() == kSecret);
    }
    CHECK(!AnyFileHas(node.folder(), kSecret));
  }
  CHECK(logged.text().find(kSecret) == std::string::npos);
}

TEST_CASE("a Pod that asked for no split has nothing pulled on the DPU") {
  TwoFakes node;
  rt::PodSandboxConfig pod = node.PodConfig("web");
  pod.clear_annotations();
  node.Call<rt::PullImageResponse>(kPullImage, Pull(pod));
  CHECK(node.dpu().Asked("PullImage").empty());
  CHECK(node.host().Asked("PullImage").size() == 1);
}

TEST_CASE("an image that exists for one PU's platform only is enough for the containers of that PU") {
  TwoFakes node;
  rt::PodSandboxConfig pod = node.PodConfig("web");
  std::string sandbox = node.RunPod(pod);
  bool dpu_only = GENERATE(true, false);
  Refuse(dpu_only ? node.host() : node.dpu());

  auto pulled = node.Call<rt::PullImageResponse>(kPullImage, Pull(pod));
  rt::ImageStatusRequest ask;
  *ask.mutable_image() = Pull(pod).image();
  auto status = node.Call<rt::ImageStatusResponse>(kImageStatus, ask);

  CHECK(pulled.image_ref() == (dpu_only ? "sha256:0d" : "sha256:0a"));
  CHECK(status.image().id() == pulled.image_ref());
}

rt::ImageStatusResponse Ask(TwoFakes& node, const rt::PodSandboxConfig& pod) {
  rt::ImageStatusRequest ask;
  *ask.mutable_image() = Pull(pod).image();
  return node.Call<rt::ImageStatusResponse>(kImageStatus, ask);
}

// As kubelet asks for it: by the host's id, which the DPU does not know.
rt::CreateContainerRequest ByHostsId(TwoFakes& node, const std::string& sandbox, const rt::PodSandboxConfig& pod) {
  rt::CreateContainerRequest request = node.Request(sandbox, pod, "side");
  request.mutable_config()->mutable_image()->set_image("sha256:0a");
  request.mutable_config()->mutable_image()->set_user_specified_image(kImage);
  return request;
}

TEST_CASE("the host's pull counts, whatever the DPU has: one that failed is told") {
  TwoFakes node;
  rt::PodSandboxConfig pod = node.PodConfig("web");
  node.RunPod(pod);
  node.host().On("PullImage", [](std::shared_ptr<Call> call) {
    call->Fail(grpc::StatusCode::UNAVAILABLE, "registry.example: 503");
  });
  auto pulled = node.cri().Call<rt::PullImageResponse>(kPullImage, Pull(pod), In(testing::kPatience));
  CHECK_THAT(pulled.status(), testing::Says("503"));
}

TEST_CASE("an image that the DPU alone has is pulled for a container of the host") {
  TwoFakes node;
  rt::PodSandboxConfig pod = node.PodConfig("web");
  std::string sandbox = node.RunPod(pod);
  node.dpu().AddImage(kImage);  // the host's was removed to make room
  REQUIRE(Ask(node, pod).image().id() == "sha256:0d");
  node.host().On("CreateContainer", [](std::shared_ptr<Call> call) {
    call->Fail(grpc::StatusCode::NOT_FOUND, "failed to resolve image \"sha256:0d\": not found");
  });

  CHECK(!node.TryCreate(node.Request(sandbox, pod, "app", "sha256:0d")).ok());

  CHECK(!Ask(node, pod).has_image());  // so kubelet pulls
  node.Call<rt::PullImageResponse>(kPullImage, Pull(pod));
  CHECK(Ask(node, pod).image().id() == "sha256:0a");
}

TEST_CASE("an image that the DPU cannot pull by itself is pulled once more by kubelet, who has the credentials") {
  TwoFakes node;
  rt::PodSandboxConfig pod = node.PodConfig("web");
  std::string sandbox = node.RunPod(pod);
  node.host().AddImage(kImage);  // pulled while the DPU was away
  REQUIRE(Ask(node, pod).has_image());
  node.dpu().On("PullImage",
                [](std::shared_ptr<Call> call) { call->Fail(grpc::StatusCode::UNKNOWN, "401 Unauthorized"); });
  rt::CreateContainerRequest request = ByHostsId(node, sandbox, pod);

  CHECK_THAT(node.TryCreate(request).status(), testing::Says("401 Unauthorized"));

  CHECK(!Ask(node, pod).has_image());
  CHECK(Ask(node, pod).has_image());  // once: without a registry that answers, what is there must do
}

TEST_CASE("where the DPU could not pull what the host did, it does not run what it had by that name") {
  TwoFakes node;
  rt::PodSandboxConfig pod = node.PodConfig("web");
  std::string sandbox = node.RunPod(pod);
  node.dpu().AddImage(kImage);  // of before the tag moved
  node.dpu().On("PullImage",
                [](std::shared_ptr<Call> call) { call->Fail(grpc::StatusCode::UNKNOWN, "no route to the registry"); });
  node.Call<rt::PullImageResponse>(kPullImage, Pull(pod));
  rt::CreateContainerRequest request = ByHostsId(node, sandbox, pod);
  CHECK_THAT(node.TryCreate(request).status(), testing::Says("no route to the registry"));

  node.dpu().On("PullImage", [](std::shared_ptr<Call> call) {
    rt::PullImageResponse response;
    response.set_image_ref("sha256:0d");
    call->Finish(grpc::Status::OK, ToBuffer(response.SerializeAsString()));
  });
  CHECK_OK(node.TryCreate(request).status());
}

TEST_CASE("where the DPU has an older image of the name it pulls the host's version, or does not run the container") {
  TwoFakes node;
  rt::PodSandboxConfig pod = node.PodConfig("web");
  std::string sandbox = node.RunPod(pod);
  const std::string old = "registry.example/private/tool@sha256:01", fresh = "registry.example/private/tool@sha256:02";
  node.dpu().AddImage(kImage, old);
  for (const char* name : {"sha256:0a", kImage}) node.host().AddImage(name, fresh);  // of a Pod that asked for no split
  FakeRuntime::Handler takes = [&](std::shared_ptr<Call> call) {
    rt::PullImageRequest request;
    request.ParseFromString(BytesOf(call->request()));
    node.dpu().AddImage(request.image().image(), request.image().image());
    call->Finish(grpc::Status::OK, ToBuffer(rt::PullImageResponse().SerializeAsString()));
  };
  node.dpu().On("PullImage",
                [](std::shared_ptr<Call> call) { call->Fail(grpc::StatusCode::UNKNOWN, "401 Unauthorized"); });
  rt::CreateContainerRequest request = ByHostsId(node, sandbox, pod);

  CHECK_THAT(node.TryCreate(request).status(), testing::Says("401 Unauthorized"));
  CHECK(!Ask(node, pod).has_image());  // so kubelet pulls, with its credentials

  node.dpu().On("PullImage", takes);
  REQUIRE_OK(node.TryCreate(request).status());
  request.mutable_config()->mutable_metadata()->set_attempt(1);
  REQUIRE_OK(node.TryCreate(request).status());  // and it is there now
  CHECK(node.dpu().Asked("PullImage").size() == 2);
  for (const std::string& bytes : node.dpu().Asked("CreateContainer")) {
    rt::CreateContainerRequest on_dpu;
    REQUIRE(on_dpu.ParseFromString(bytes));
    CHECK(on_dpu.config().image().image() == fresh);
  }
}

TEST_CASE("of several versions that the host's image has one runs on the DPU, and never another by the name") {
  TwoFakes node;
  rt::PodSandboxConfig pod = node.PodConfig("web");
  std::string sandbox = node.RunPod(pod);
  const std::string repository = "registry.example/private/tool@sha256:";
  node.dpu().AddImage(kImage, repository + "01");
  node.host().On("ImageStatus", [&](std::shared_ptr<Call> call) {
    rt::ImageStatusResponse response;
    response.mutable_image()->set_id("sha256:0a");
    for (const char* version : {"02", "03"}) response.mutable_image()->add_repo_digests(repository + version);
    call->Finish(grpc::Status::OK, ToBuffer(response.SerializeAsString()));
  });
  node.dpu().On("PullImage", [&](std::shared_ptr<Call> call) {
    rt::PullImageRequest request;
    request.ParseFromString(BytesOf(call->request()));
    if (request.image().image() == repository + "02") return call->Fail(grpc::StatusCode::NOT_FOUND, "not found");
    node.dpu().AddImage(request.image().image(), request.image().image());
    call->Finish(grpc::Status::OK, ToBuffer(rt::PullImageResponse().SerializeAsString()));
  });

  REQUIRE_OK(node.TryCreate(ByHostsId(node, sandbox, pod)).status());

  rt::CreateContainerRequest on_dpu;
  REQUIRE(on_dpu.ParseFromString(node.dpu().Asked("CreateContainer").at(0)));
  CHECK(on_dpu.config().image().image() == repository + "03");
}

TEST_CASE("an image of another repository is not run on the DPU, though the host's is the same in both") {
  TwoFakes node;
  rt::PodSandboxConfig pod = node.PodConfig("web");
  std::string sandbox = node.RunPod(pod);
  // Each PU's part of an index is its own: whoever copies the host's may put any program beside it for the DPU.
  const std::string copy = "registry.example/registry.example/private/tool@sha256:01";
  const std::string own = "registry.example/private/tool@sha256:02";
  node.dpu().AddImage(copy, copy);
  node.host().On("ImageStatus", [&](std::shared_ptr<Call> call) {
    rt::ImageStatusResponse response;
    response.mutable_image()->set_id("sha256:0a");
    for (const std::string& digest : {copy, own}) response.mutable_image()->add_repo_digests(digest);
    call->Finish(grpc::Status::OK, ToBuffer(response.SerializeAsString()));
  });

  REQUIRE_OK(node.TryCreate(ByHostsId(node, sandbox, pod)).status());

  rt::CreateContainerRequest on_dpu;
  REQUIRE(on_dpu.ParseFromString(node.dpu().Asked("CreateContainer").at(0)));
  CHECK(on_dpu.config().image().image() == own);
}

TEST_CASE("an image of one version runs by its name, and so does one whose version is not known") {
  TwoFakes node;
  rt::PodSandboxConfig pod = node.PodConfig("web");
  std::string sandbox = node.RunPod(pod);
  const std::string version = "registry.example/private/tool@sha256:01";
  for (const char* name : {"sha256:0a", kImage}) node.host().AddImage(name, version);
  node.dpu().AddImage(kImage, GENERATE_COPY(version, std::string()));

  REQUIRE_OK(node.TryCreate(ByHostsId(node, sandbox, pod)).status());

  rt::CreateContainerRequest on_dpu;
  REQUIRE(on_dpu.ParseFromString(node.dpu().Asked("CreateContainer").at(0)));
  CHECK(on_dpu.config().image().image() == kImage);
  CHECK(node.dpu().Asked("PullImage").empty());
}

TEST_CASE("when no PU gets the image the host's refusal is the answer") {
  TwoFakes node;
  rt::PodSandboxConfig pod = node.PodConfig("web");
  Refuse(node.host());
  Refuse(node.dpu());
  auto pulled = node.cri().Call<rt::PullImageResponse>(kPullImage, Pull(pod), In(testing::kPatience));
  CHECK(pulled.status().code() == absl::StatusCode::kNotFound);
}

TEST_CASE("kubelet gives the host's id of an image; the DPU is asked by the name that the Pod has") {
  TwoFakes node;
  rt::PodSandboxConfig pod = node.PodConfig("web");
  std::string sandbox = node.RunPod(pod);
  node.dpu().AddImage(kImage);
  rt::CreateContainerRequest request;
  request.set_pod_sandbox_id(sandbox);
  *request.mutable_sandbox_config() = pod;
  request.mutable_config()->mutable_metadata()->set_name("side");
  request.mutable_config()->mutable_image()->set_image("sha256:0a");
  request.mutable_config()->mutable_image()->set_user_specified_image(kImage);
  request.mutable_config()->mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_pid(
      rt::CONTAINER);

  std::string id = node.Call<rt::CreateContainerResponse>(kCreateContainer, request).container_id();

  rt::CreateContainerRequest on_dpu;
  REQUIRE(node.dpu().Asked("CreateContainer").size() == 1);
  REQUIRE(on_dpu.ParseFromString(node.dpu().Asked("CreateContainer")[0]));
  CHECK(on_dpu.config().image().image() == kImage);
  rt::ContainerStatusRequest ask;
  ask.set_container_id(id);
  auto shown = node.Call<rt::ContainerStatusResponse>(kContainerStatus, ask);
  CHECK(shown.status().image().user_specified_image() == kImage);
  CHECK(node.dpu().Asked("PullImage").empty());
}

}  // namespace
}  // namespace heterok8s::cri
