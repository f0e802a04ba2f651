#include "node-agent/cri/heterod_lease.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "node-agent/cri/relay.h"

namespace heterok8s::cri {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kWordEvery{1000};
// Three words that did not come, on a socket of this machine: heterod hangs, or is stopped.
constexpr milliseconds kTooLong{3000};
constexpr milliseconds kLookForHeterod{200};

}  // namespace

HeterodLease::HeterodLease(const std::string& socket, std::function<void()> on_change)
    : on_change_(std::move(on_change)),
      channel_(UnixChannel(socket)),
      stub_(v1::PeerLease::NewStub(channel_)),
      keeper_(channel_),
      thread_([this] { Loop(); }) {}

HeterodLease::~HeterodLease() { Stop(); }

void HeterodLease::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    if (watch_ != nullptr) watch_->TryCancel();
  }
  stopped_changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

HeterodLease::State HeterodLease::StateAt(Clock::time_point now) const {
  std::lock_guard lock(mutex_);
  State state{.word = word_, .alive_at = alive_at_, .reason = reason_};
  if (word_ == Word::kNone) return state;
  if (now - heard_ >= kTooLong || (word_ == Word::kAlive && now >= good_until_)) {
    state.word = Word::kNone;
    state.reason = "heterod on the host is silent";
  }
  return state;
}

void HeterodLease::Heard(const v1::LeaseWord& word) {
  const Clock::time_point now = Clock::now();
  bool news;
  {
    std::lock_guard lock(mutex_);
    const Word before = word_;
    word_ = word.state() == v1::LeaseWord::ALIVE  ? Word::kAlive
            : word.state() == v1::LeaseWord::LOST ? Word::kLost
                                                  : Word::kNone;
    heard_ = now;
    good_until_ = now + milliseconds(word.left_ms());
    if (word.age_ms() >= 0)
      alive_at_ = std::max(alive_at_.value_or(Clock::time_point()), now - milliseconds(word.age_ms()));
    reason_ = word.reason();
    news = word_ != before;
  }
  if (!news) return;
  if (word.state() == v1::LeaseWord::ALIVE) spdlog::info("heterod: the DPU is alive");
  if (word.state() == v1::LeaseWord::LOST) spdlog::warn("heterod: the DPU is lost: {}", word.reason());
  on_change_();
}

void HeterodLease::Silent(const std::string& reason) {
  bool news;
  {
    std::lock_guard lock(mutex_);
    news = word_ != Word::kNone;
    word_ = Word::kNone;
    reason_ = "heterod on the host does not answer: " + reason;
  }
  if (!news) return;
  spdlog::warn("heterod on the host does not answer ({}): the DPU's own answers count until it does", reason);
  on_change_();
}

void HeterodLease::Loop() {
  v1::WatchLeaseRequest request;
  request.set_at_least_every_ms(kWordEvery.count());
  while (true) {
    grpc::ClientContext context;
    {
      std::lock_guard lock(mutex_);
      if (stopped_) return;
      watch_ = &context;
    }
    auto reader = stub_->Watch(&context, request);
    for (v1::LeaseWord word; reader->Read(&word);) Heard(word);
    const grpc::Status end = reader->Finish();
    {
      std::lock_guard lock(mutex_);
      watch_ = nullptr;
      if (stopped_) return;
    }
    Silent(end.error_message());
    std::unique_lock lock(mutex_);
    if (stopped_changed_.wait_for(lock, kLookForHeterod, [this] { return stopped_; })) return;
  }
}

}  // namespace heterok8s::cri
