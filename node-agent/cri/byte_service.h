// A gRPC service that takes every method with one request as bytes, and the client side that passes such a call on.
//
// Purpose: CRI is relayed unread; only the few methods that heterocri decides on are ever parsed.
// Threading: `handler` runs on a gRPC thread and must not block; it finishes the call now or later, from any thread.
// Call is thread-safe after the handler got it. Ownership: a Call lives while anybody holds it; one that is dropped
// unfinished ends with INTERNAL. ByteService must outlive its server. Errors: the other side's code, text and details,
// unchanged.
//
//   ByteService service([&](std::shared_ptr<Call> call) { Forward(stub, call, {}); });
//   builder.RegisterCallbackGenericService(&service);
#pragma once

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

namespace heterok8s::cri {

// CRI's own limit is 16 MiB; 64 leaves room for a node with very many containers in one List.
inline constexpr int kMaxMessageBytes = 64 << 20;

class Call {
 public:
  virtual ~Call() = default;

  const std::string& method() const { return method_; }  // "/runtime.v1.RuntimeService/Version"
  const grpc::ByteBuffer& request() const { return request_; }
  std::chrono::system_clock::time_point deadline() const { return deadline_; }
  const grpc::ServerContextBase& context() const { return *context_; }

  // `cancel` runs when the caller gives up before it has its answer; at once when it already has given up. Each that
  // was given runs.
  virtual void OnCancel(std::function<void()> cancel) = 0;
  // Sent with the answer. Before Finish.
  virtual void AddTrailingMetadata(const std::string& key, const std::string& value) = 0;
  // Answers; the first answer counts.
  virtual void Finish(const grpc::Status& status, const grpc::ByteBuffer& response) = 0;
  void Fail(grpc::StatusCode code, const std::string& message) { Finish(grpc::Status(code, message), {}); }
  // Of a method with many answers, instead of Finish: one of them. `sent` runs once: true when the next may be written,
  // false when there is nobody any more. One at a time, and none together with End; OutStream keeps that order.
  virtual void Write(const grpc::ByteBuffer& message, std::function<void(bool)> sent) = 0;
  virtual void End(const grpc::Status& status) = 0;

 protected:
  std::string method_;
  grpc::ByteBuffer request_;
  std::chrono::system_clock::time_point deadline_;
  const grpc::ServerContextBase* context_ = nullptr;
};

class ByteService final : public grpc::CallbackGenericService {
 public:
  using Handler = std::function<void(std::shared_ptr<Call>)>;
  explicit ByteService(Handler handler) : handler_(std::move(handler)) {}

  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override;

 private:
  Handler handler_;
};

// The answer of the next hop, before it goes to the caller: may change both.
using Transform = std::function<void(grpc::Status* status, grpc::ByteBuffer* response)>;

// Passes `call` on through `stub`: bytes, metadata, deadline and cancellation; the answer comes back with its status,
// details and trailing metadata.
void Forward(grpc::GenericStub& stub, std::shared_ptr<Call> call, Transform transform);
// The same, of another request than the caller's.
void ForwardBytes(grpc::GenericStub& stub, std::shared_ptr<Call> call, grpc::ByteBuffer request, Transform transform);

// Deadline and metadata of `call`, for the next hop.
void PassOn(const Call& call, grpc::ClientContext* context);

std::string BytesOf(const grpc::ByteBuffer& buffer);
grpc::ByteBuffer ToBuffer(std::string_view bytes);

}  // namespace heterok8s::cri
