#include "node-agent/cri/out_stream.h"

#include <utility>
#include <vector>

namespace heterok8s::cri {

void OutStream::Push(grpc::ByteBuffer message, std::function<void(bool)> sent) {
  bool taken = false, full = false;
  {
    std::lock_guard lock(mutex_);
    full = waiting_.size() >= kMostWaiting;
    if (!full && !broken_ && !end_) {
      waiting_.push_back({std::move(message), std::move(sent)});
      taken = true;
    }
  }
  if (full) Break({grpc::StatusCode::RESOURCE_EXHAUSTED, call_->method() + ": the answers are not read"});
  if (taken) {
    Go();
  } else if (sent) {
    sent(false);
  }
}

void OutStream::End(const grpc::Status& status) {
  {
    std::lock_guard lock(mutex_);
    if (!end_) end_ = status;
  }
  Go();
}

void OutStream::OnBreak(std::function<void()> stop_source) {
  {
    std::lock_guard lock(mutex_);
    stop_source_ = stop_source;
    if (!broken_) return;
  }
  stop_source();
}

void OutStream::Break(const grpc::Status& status) {
  std::deque<Item> dropped;
  std::function<void()> stop_source;
  {
    std::lock_guard lock(mutex_);
    if (broken_) return;
    broken_ = status;
    dropped.swap(waiting_);
    stop_source = stop_source_;
  }
  for (Item& item : dropped) {
    if (item.sent) item.sent(false);
  }
  if (stop_source) stop_source();
}

void OutStream::Go() {
  Item item;
  std::optional<grpc::Status> end;
  {
    std::lock_guard lock(mutex_);
    if (writing_ || over_) return;
    if (!waiting_.empty()) {
      writing_ = true;
      item = std::move(waiting_.front());
      waiting_.pop_front();
    } else if (end_) {
      over_ = true;
      end = broken_ ? broken_ : end_;
    } else {
      return;
    }
  }
  if (end) {
    call_->End(*end);
    return;
  }
  call_->Write(item.message, [self = shared_from_this(), sent = std::move(item.sent)](bool ok) {
    {
      std::lock_guard lock(self->mutex_);
      self->writing_ = false;
    }
    if (sent) sent(ok);
    if (!ok) self->Break(grpc::Status::CANCELLED);  // the caller has gone
    self->Go();
  });
}

namespace {

// One stream of the next hop. gRPC calls it; it deletes itself at the end. A hold keeps it while a message is with the
// caller, because the read after it starts outside of gRPC's own calls.
class StreamHop final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  StreamHop(std::shared_ptr<OutStream> out, TransformEach each, std::function<void(const grpc::Status&)> done)
      : out_(std::move(out)), each_(std::move(each)), done_(std::move(done)) {}

  void Start(grpc::GenericStub& stub, const Call& call, std::shared_ptr<grpc::ClientContext> context) {
    context_ = std::move(context);
    request_ = call.request();
    stub.PrepareBidiStreamingCall(context_.get(), call.method(), {}, this);
    StartWriteLast(&request_, grpc::WriteOptions());
    StartRead(&response_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;  // OnDone says why
    if (each_) each_(&response_);
    AddHold();
    out_->Push(response_, [this](bool sent) {
      if (sent) {
        StartRead(&response_);
      } else {
        context_->TryCancel();
      }
      RemoveHold();
    });
  }

  void OnDone(const grpc::Status& status) override {
    done_(status);
    delete this;
  }

 private:
  std::shared_ptr<OutStream> out_;
  TransformEach each_;
  std::function<void(const grpc::Status&)> done_;
  std::shared_ptr<grpc::ClientContext> context_;
  grpc::ByteBuffer request_, response_;
};

}  // namespace

void ForwardStream(grpc::GenericStub& stub, const std::shared_ptr<Call>& call, std::shared_ptr<OutStream> out,
                   TransformEach each, std::function<void(const grpc::Status&)> done) {
  auto context = std::make_shared<grpc::ClientContext>();
  PassOn(*call, context.get());
  std::weak_ptr<grpc::ClientContext> weak = context;
  auto cancel = [weak] {
    if (auto alive = weak.lock()) alive->TryCancel();
  };
  out->OnBreak(cancel);
  call->OnCancel(cancel);
  (new StreamHop(std::move(out), std::move(each), std::move(done)))->Start(stub, *call, std::move(context));
}

}  // namespace heterok8s::cri
