#include "node-agent/cri/byte_service.h"

#include <atomic>
#include <vector>

namespace heterok8s::cri {
namespace {

// gRPC deletes nothing of ours: the reactor lives from CreateReactor to OnDone, and OnDone comes only after Finish. The
// Call that handlers hold is a separate object with a weak way back, so that a late Finish after the end is harmless.
class Reactor;

class ReactorCall final : public Call {
 public:
  ReactorCall(Reactor* reactor, grpc::GenericCallbackServerContext* context) : reactor_(reactor) {
    method_ = context->method();
    deadline_ = context->deadline();
    context_ = context;
    server_context_ = context;
  }
  ~ReactorCall() override {
    Finish(grpc::Status(grpc::StatusCode::INTERNAL, method_ + ": dropped without an answer"), {});
  }

  void OnCancel(std::function<void()> cancel) override {
    {
      std::lock_guard lock(mutex_);
      if (!cancelled_) {
        cancels_.push_back(std::move(cancel));
        return;
      }
    }
    cancel();
  }
  void AddTrailingMetadata(const std::string& key, const std::string& value) override {
    std::lock_guard lock(mutex_);
    if (reactor_ != nullptr) server_context_->AddTrailingMetadata(key, value);
  }
  void Finish(const grpc::Status& status, const grpc::ByteBuffer& response) override;
  void Write(const grpc::ByteBuffer& message, std::function<void(bool)> sent) override;
  void End(const grpc::Status& status) override;

  grpc::ByteBuffer* mutable_request() { return &request_; }
  void Cancelled() {
    std::vector<std::function<void()>> cancels;
    {
      std::lock_guard lock(mutex_);
      cancelled_ = true;
      cancels.swap(cancels_);
    }
    for (const std::function<void()>& cancel : cancels) cancel();
  }

 private:
  Reactor* TakeReactor() {
    std::lock_guard lock(mutex_);
    cancels_.clear();
    return std::exchange(reactor_, nullptr);
  }

  std::mutex mutex_;
  Reactor* reactor_;  // null once answered
  grpc::GenericCallbackServerContext* server_context_;
  bool cancelled_ = false;
  std::vector<std::function<void()>> cancels_;
};

class Reactor final : public grpc::ServerGenericBidiReactor {
 public:
  Reactor(const ByteService::Handler& handler, grpc::GenericCallbackServerContext* context)
      : handler_(handler), call_(std::make_shared<ReactorCall>(this, context)) {
    StartRead(call_->mutable_request());
  }

  void OnReadDone(bool ok) override {
    // The handler may finish the call, and gRPC then delete this reactor, before it returns.
    std::shared_ptr<ReactorCall> call;
    {
      std::lock_guard lock(mutex_);
      call.swap(call_);
      watched_ = call;
    }
    if (!ok) {
      call->Fail(grpc::StatusCode::INVALID_ARGUMENT, call->method() + ": no request message came");
      return;
    }
    const ByteService::Handler& handler = handler_;
    handler(std::move(call));
  }
  void OnCancel() override {
    std::shared_ptr<ReactorCall> call;
    {
      std::lock_guard lock(mutex_);
      call = call_ ? call_ : watched_.lock();
    }
    if (call) call->Cancelled();
  }
  void OnWriteDone(bool ok) override {
    if (sent_) std::exchange(sent_, nullptr)(ok);
  }
  void OnDone() override { delete this; }

  void Answer(const grpc::Status& status, const grpc::ByteBuffer& response) {
    if (!status.ok()) {
      ServerBidiReactor::Finish(status);
      return;
    }
    response_ = response;
    StartWriteAndFinish(&response_, grpc::WriteOptions(), status);
  }
  void Write(const grpc::ByteBuffer& message, std::function<void(bool)> sent) {
    response_ = message;
    sent_ = std::move(sent);
    StartWrite(&response_);
  }
  void End(const grpc::Status& status) { ServerBidiReactor::Finish(status); }

 private:
  const ByteService::Handler& handler_;
  std::mutex mutex_;
  std::shared_ptr<ReactorCall> call_;
  std::weak_ptr<ReactorCall> watched_;
  grpc::ByteBuffer response_;
  std::function<void(bool)> sent_;  // of the write that is on its way
};

void ReactorCall::Finish(const grpc::Status& status, const grpc::ByteBuffer& response) {
  if (Reactor* reactor = TakeReactor()) reactor->Answer(status, response);
}

void ReactorCall::End(const grpc::Status& status) {
  if (Reactor* reactor = TakeReactor()) reactor->End(status);
}

void ReactorCall::Write(const grpc::ByteBuffer& message, std::function<void(bool)> sent) {
  Reactor* reactor;
  {
    std::lock_guard lock(mutex_);
    reactor = reactor_;
  }
  // It cannot go meanwhile: gRPC keeps it until the call was ended, which the caller does not do now.
  if (reactor != nullptr) {
    reactor->Write(message, std::move(sent));
  } else {
    sent(false);
  }
}

// Set by gRPC itself on the next hop; passing them on would say them twice.
bool IsReserved(const std::string& key) {
  return key.empty() || key[0] == ':' || key.rfind("grpc-", 0) == 0 || key == "user-agent" || key == "te" ||
         key == "content-type";
}

struct Hop {
  grpc::ClientContext context;
  grpc::ByteBuffer request;
  grpc::ByteBuffer response;
  std::shared_ptr<Call> call;
  Transform transform;
};

}  // namespace

grpc::ServerGenericBidiReactor* ByteService::CreateReactor(grpc::GenericCallbackServerContext* context) {
  return new Reactor(handler_, context);
}

void PassOn(const Call& call, grpc::ClientContext* context) {
  context->set_deadline(call.deadline());
  for (const auto& [key, value] : call.context().client_metadata()) {
    std::string name(key.data(), key.size());
    if (!IsReserved(name)) context->AddMetadata(name, std::string(value.data(), value.size()));
  }
}

void Forward(grpc::GenericStub& stub, std::shared_ptr<Call> call, Transform transform) {
  grpc::ByteBuffer request = call->request();
  ForwardBytes(stub, std::move(call), std::move(request), std::move(transform));
}

void ForwardBytes(grpc::GenericStub& stub, std::shared_ptr<Call> call, grpc::ByteBuffer request, Transform transform) {
  auto hop = std::make_shared<Hop>();
  hop->request = std::move(request);
  hop->call = call;
  hop->transform = std::move(transform);
  PassOn(*call, &hop->context);
  std::weak_ptr<Hop> weak = hop;
  call->OnCancel([weak] {
    if (auto alive = weak.lock()) alive->context.TryCancel();
  });
  stub.UnaryCall(&hop->context, call->method(), {}, &hop->request, &hop->response, [hop](grpc::Status status) {
    for (const auto& [key, value] : hop->context.GetServerTrailingMetadata()) {
      std::string name(key.data(), key.size());
      if (!IsReserved(name)) hop->call->AddTrailingMetadata(name, std::string(value.data(), value.size()));
    }
    if (hop->transform) hop->transform(&status, &hop->response);
    hop->call->Finish(status, hop->response);
  });
}

std::string BytesOf(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string bytes;
  if (!buffer.Valid() || !buffer.Dump(&slices).ok()) return bytes;
  bytes.reserve(buffer.Length());
  for (const grpc::Slice& slice : slices) bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return bytes;
}

grpc::ByteBuffer ToBuffer(std::string_view bytes) {
  grpc::Slice slice(bytes.data(), bytes.size());
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace heterok8s::cri
