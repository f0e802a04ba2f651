// The answers of one call with many, from several sources in one order; and the next hop's as one of the sources.
//
// Purpose: GetContainerEvents and the Stream calls say what the host's runtime says and what we know of the DPU beside
// it. Neither source waits for the other, and a caller that does not read slows only its own host stream.
// Threading: thread-safe; nothing blocks. Ownership: shared; it lives while a source or a message on its way holds it.
// Errors: a caller who leaves more than kMostWaiting messages unread gets RESOURCE_EXHAUSTED: it asks again, and lists
// first. Such a stream is broken: its source is told to stop and says End, and only then is the call over; so whoever
// waits for the server's calls has waited for the sources as well.
//
//   auto out = std::make_shared<OutStream>(call);
//   ForwardStream(host.stub(), call, out, {}, [out](grpc::Status status) { out->End(status); });
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "node-agent/cri/byte_service.h"

namespace heterok8s::cri {

class OutStream : public std::enable_shared_from_this<OutStream> {
 public:
  static constexpr size_t kMostWaiting = 4096;

  explicit OutStream(std::shared_ptr<Call> call) : call_(std::move(call)) {}
  // `sent` runs once: true when the message has left, false when it never will.
  void Push(grpc::ByteBuffer message, std::function<void(bool)> sent = {});
  // The source has no more: the call ends after what was pushed.
  void End(const grpc::Status& status);
  // Takes nothing any more and asks the source to stop; the call will end with `status`.
  void Break(const grpc::Status& status);
  // How the source is asked; at once when it is broken already.
  void OnBreak(std::function<void()> stop_source);

 private:
  struct Item {
    grpc::ByteBuffer message;
    std::function<void(bool)> sent;
  };
  void Go();  // writes the next one, or ends, when nothing is on its way

  std::shared_ptr<Call> call_;
  std::mutex mutex_;
  std::function<void()> stop_source_;
  std::deque<Item> waiting_;
  bool writing_ = false;
  bool over_ = false;                   // the end was said to gRPC
  std::optional<grpc::Status> broken_;  // what the caller will be told, whatever the source says
  std::optional<grpc::Status> end_;
};

// Passes a call with many answers on: its messages go to `out`, one read after the one before was written, and `done`
// runs once with the next hop's status. `each` may change a message. Ends when the caller gives up.
using TransformEach = std::function<void(grpc::ByteBuffer* message)>;
void ForwardStream(grpc::GenericStub& stub, const std::shared_ptr<Call>& call, std::shared_ptr<OutStream> out,
                   TransformEach each, std::function<void(const grpc::Status&)> done);

}  // namespace heterok8s::cri
