#include "node-agent/peer/port_stream.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "proto/heterok8s/v1/peer.grpc.pb.h"

namespace heterok8s::peer {
namespace {

using Clock = std::chrono::steady_clock;
using Writer = grpc::internal::WriterInterface<v1::PortMessage>;
using Reader = grpc::internal::ReaderInterface<v1::PortMessage>;

constexpr std::chrono::milliseconds kFirstBackoff{50}, kLongestBackoff{1000};

class StreamSession final : public PortSession {
 public:
  StreamSession(Writer& writer, std::function<void()> cancel) : writer_(&writer), cancel_(std::move(cancel)) {}

  uint64_t Send(v1::PortMessage message, std::optional<Clock::time_point> since) override {
    uint64_t sequence = 0;
    {
      std::lock_guard lock(mutex_);
      if (closed_) return 0;
      sequence = last_sequence_ + 1;
      message.set_sequence(++last_sequence_);
      if (since) unacknowledged_.emplace_back(last_sequence_, *since);
      outgoing_.push_back(std::move(message));
    }
    changed_.notify_one();
    return sequence;
  }

  // Rides on the next message, or alone when there is none.
  void Acknowledge(uint64_t sequence) override {
    {
      std::lock_guard lock(mutex_);
      acknowledge_ = std::max(acknowledge_, sequence);
    }
    changed_.notify_one();
  }

  void Close() override {
    std::lock_guard lock(mutex_);
    if (closed_) return;
    closed_ = true;
    cancel_();  // under the lock: Finished() makes sure that nothing is cancelled after its stream's end
    changed_.notify_one();
  }

  void Finished() {
    std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_one();
  }

  void ReceivedAck(uint64_t sequence, const PortSync& sync) {
    const Clock::time_point now = Clock::now();
    std::vector<Clock::time_point> since;
    {
      std::lock_guard lock(mutex_);
      while (!unacknowledged_.empty() && unacknowledged_.front().first <= sequence) {
        since.push_back(unacknowledged_.front().second);
        unacknowledged_.pop_front();
      }
    }
    for (Clock::time_point at : since) sync.ObserveAck(now - at);
  }

  void WriteUntilClosed() {
    std::vector<v1::PortMessage> batch;
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return closed_ || !outgoing_.empty() || acknowledge_ > acknowledged_; });
      if (closed_) return;
      batch.swap(outgoing_);
      if (acknowledge_ > acknowledged_) {
        if (batch.empty()) batch.emplace_back();
        batch.front().set_acknowledges(acknowledge_);
        acknowledged_ = acknowledge_;
      }
      lock.unlock();
      for (size_t i = 0; i < batch.size(); ++i) {
        grpc::WriteOptions options;
        if (i + 1 < batch.size()) options.set_buffer_hint();
        if (!writer_->Write(batch[i], options)) return;  // the reader sees the end, too
      }
      batch.clear();
      lock.lock();
    }
  }

 private:
  Writer* const writer_;
  const std::function<void()> cancel_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<v1::PortMessage> outgoing_;
  std::deque<std::pair<uint64_t, Clock::time_point>> unacknowledged_;
  uint64_t last_sequence_ = 0;
  uint64_t acknowledge_ = 0, acknowledged_ = 0;
  bool closed_ = false;
};

// Runs one stream to its end; true when the other side said anything.
bool Pump(PortSync& sync, Writer& writer, Reader& reader, std::function<void()> cancel) {
  auto session = std::make_shared<StreamSession>(writer, std::move(cancel));
  std::thread writing([&] { session->WriteUntilClosed(); });
  sync.Connected(session);
  bool heard = false;
  v1::PortMessage message;
  while (reader.Read(&message)) {
    heard = true;
    if (message.acknowledges() > 0) {
      session->ReceivedAck(message.acknowledges(), sync);
      sync.Acknowledged(session, message.acknowledges());
    }
    if (message.sequence() > 0) sync.Received(session, std::move(message));
    message.Clear();
  }
  session->Finished();
  sync.Disconnected(session);
  writing.join();
  return heard;
}

}  // namespace

grpc::Status ServePortStream(PortSync& sync, grpc::ServerContext& context,
                             grpc::ServerReaderWriter<v1::PortMessage, v1::PortMessage>& stream) {
  // The dialler's first sign that the stream is up; without it a stream without Pods would look like a refused one.
  stream.SendInitialMetadata();
  Pump(sync, stream, stream, [&context] { context.TryCancel(); });
  return grpc::Status::OK;
}

PortDialer::PortDialer(std::shared_ptr<grpc::Channel> channel, PortSync& sync)
    : channel_(std::move(channel)), sync_(sync), thread_([this] { Run(); }) {}

PortDialer::~PortDialer() {
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    if (current_ != nullptr) current_->TryCancel();
  }
  stopped_changed_.notify_all();
  thread_.join();
}

void PortDialer::Run() {
  auto stub = v1::Peer::NewStub(channel_);
  auto backoff = kFirstBackoff;
  bool was_up = true;
  std::unique_lock lock(mutex_);
  while (!stopped_) {
    grpc::ClientContext context;
    current_ = &context;
    lock.unlock();

    auto stream = stub->Ports(&context);
    stream->WaitForInitialMetadata();
    const auto started = Clock::now();
    const bool heard = Pump(sync_, *stream, *stream, [&context] { context.TryCancel(); });
    const grpc::Status status = stream->Finish();

    lock.lock();
    current_ = nullptr;
    if (stopped_) return;
    const bool up = heard || Clock::now() - started > kLongestBackoff;
    if (up || was_up) {
      spdlog::warn("port stream to the DPU ended: {}, keeping what is known and connecting again",
                   status.ok() ? "closed by the other side" : status.error_message());
    }
    was_up = up;
    backoff = up ? kFirstBackoff : std::min(backoff * 2, kLongestBackoff);
    stopped_changed_.wait_for(lock, backoff, [this] { return stopped_; });
  }
}

}  // namespace heterok8s::peer
