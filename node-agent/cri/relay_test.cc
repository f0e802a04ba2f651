// caller ── gRPC ──▶ Relay ── Unix socket ──▶ a runtime (generated CRI service that behaves like a small containerd)
#include "node-agent/cri/relay.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <optional>
#include <thread>

#include "common/testing/eventually.h"
#include "common/testing/matchers.h"
#include "proto/cri/v1/cri.grpc.pb.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;
using namespace std::chrono_literals;
using testing::Eventually;

class Runtime final : public rt::RuntimeService::Service {
 public:
  grpc::Status Version(grpc::ServerContext* context, const rt::VersionRequest* request,
                       rt::VersionResponse* response) override {
    response->set_version(request->version());
    auto found = context->client_metadata().find("x-note");
    if (found != context->client_metadata().end())
      response->set_runtime_name({found->second.data(), found->second.size()});
    context->AddTrailingMetadata("x-answer", "yes");
    return grpc::Status::OK;
  }
  grpc::Status StopContainer(grpc::ServerContext*, const rt::StopContainerRequest* request,
                             rt::StopContainerResponse*) override {
    return {grpc::StatusCode::NOT_FOUND, "no container " + request->container_id(), "details"};
  }
  // Waits until its caller has gone.
  grpc::Status ExecSync(grpc::ServerContext* context, const rt::ExecSyncRequest*, rt::ExecSyncResponse*) override {
    entered = true;
    while (!context->IsCancelled()) std::this_thread::sleep_for(5ms);
    cancelled = true;
    return grpc::Status::CANCELLED;
  }

  std::atomic<bool> entered = false, cancelled = false;
};

struct Chain {
  explicit Chain(std::function<grpc::Status(const grpc::ServerContextBase&)> authorize = {})
      : socket("/tmp/hk-relay-" + std::to_string(getpid()) + ".sock") {
    grpc::ServerBuilder back;
    back.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
    back.SetMaxReceiveMessageSize(kMaxMessageBytes);
    back.RegisterService(&runtime);
    runtime_server = back.BuildAndStart();
    relay = std::make_unique<Relay>(RelayOptions{.socket = socket, .authorize = std::move(authorize)});
    grpc::ServerBuilder front;
    int port = 0;
    front.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    relay->Register(front);
    relay_server = front.BuildAndStart();
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
    channel =
        grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials(), arguments);
    stub = rt::RuntimeService::NewStub(channel);
  }
  ~Chain() {
    auto now = std::chrono::system_clock::now();
    relay_server->Shutdown(now);
    runtime_server->Shutdown(now);
    unlink(socket.c_str());
  }

  std::string socket;
  Runtime runtime;
  std::unique_ptr<Relay> relay;
  std::unique_ptr<grpc::Server> runtime_server, relay_server;
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<rt::RuntimeService::Stub> stub;
};

TEST_CASE("bytes and metadata arrive and come back unchanged, 20 MB included") {
  Chain chain;
  for (size_t bytes : {size_t{3}, size_t{20} << 20}) {
    grpc::ClientContext context;
    context.AddMetadata("x-note", "hello");
    rt::VersionRequest request;
    request.set_version(std::string(bytes, 'v'));
    rt::VersionResponse response;

    grpc::Status status = chain.stub->Version(&context, request, &response);

    REQUIRE(status.error_message() == "");
    CHECK(response.version() == request.version());
    CHECK(response.runtime_name() == "hello");
    CHECK(context.GetServerTrailingMetadata().count("x-answer") == 1);
  }
}

TEST_CASE("the runtime's refusal comes back with its code, text and details") {
  Chain chain;
  grpc::ClientContext context;
  rt::StopContainerRequest request;
  request.set_container_id("x");
  rt::StopContainerResponse response;

  grpc::Status status = chain.stub->StopContainer(&context, request, &response);

  CHECK(status.error_code() == grpc::StatusCode::NOT_FOUND);
  CHECK(status.error_message() == "no container x");
  CHECK(status.error_details() == "details");
}

TEST_CASE("a caller that goes away is given up at the runtime as well") {
  Chain chain;
  grpc::ClientContext context;
  rt::ExecSyncResponse response;
  std::thread caller([&] { CHECK(!chain.stub->ExecSync(&context, rt::ExecSyncRequest(), &response).ok()); });

  CHECK(Eventually([&] { return chain.runtime.entered.load(); }));
  context.TryCancel();

  CHECK(Eventually([&] { return chain.runtime.cancelled.load(); }));
  caller.join();
}

TEST_CASE("a caller whose time is over is given up at the runtime as well") {
  Chain chain;
  // The call must be there before its time is over, which takes as long as the machine is busy.
  for (auto limit = 200ms; !chain.runtime.entered && limit < testing::kPatience; limit *= 2) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + limit);
    rt::ExecSyncResponse response;
    CHECK(!chain.stub->ExecSync(&context, rt::ExecSyncRequest(), &response).ok());
  }
  REQUIRE(chain.runtime.entered);

  CHECK(Eventually([&] { return chain.runtime.cancelled.load(); }));
}

TEST_CASE("only CRI v1 passes, and only for callers that are allowed") {
  bool allow = GENERATE(true, false);
  Chain chain([allow](const grpc::ServerContextBase&) {
    return allow ? grpc::Status::OK : grpc::Status(grpc::StatusCode::PERMISSION_DENIED, "role 'x' may not");
  });
  grpc::GenericStub generic(chain.channel);
  auto ask = [&](const std::string& method) {
    grpc::ClientContext context;
    grpc::ByteBuffer request = ToBuffer(""), response;
    std::mutex mutex;
    std::condition_variable changed;
    std::optional<grpc::Status> result;
    generic.UnaryCall(&context, method, {}, &request, &response, [&](grpc::Status status) {
      std::lock_guard lock(mutex);
      result = status;
      changed.notify_all();
    });
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return result.has_value(); });
    return *result;
  };

  CHECK(ask("/runtime.v1alpha2.RuntimeService/Version").error_code() == grpc::StatusCode::UNIMPLEMENTED);
  CHECK(ask("/other.Service/Do").error_message() == "unknown method '/other.Service/Do'");
  CHECK(ask("/runtime.v1.RuntimeService/Version").error_code() ==
        (allow ? grpc::StatusCode::OK : grpc::StatusCode::PERMISSION_DENIED));
}

TEST_CASE("a runtime that is down is UNAVAILABLE, not a hang") {
  Chain chain;
  chain.runtime_server->Shutdown(std::chrono::system_clock::now());
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + testing::kPatience);
  rt::VersionResponse response;
  CHECK(chain.stub->Version(&context, rt::VersionRequest(), &response).error_code() == grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace heterok8s::cri
