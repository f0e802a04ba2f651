// The lease: when the DPU counts as there.
#include "node-agent/cri/dpu_link.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "node-agent/cri/grpc_status.h"

namespace heterok8s::cri {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kLookForDpu{200};

}  // namespace

const char* Name(DpuState state) {
  switch (state) {
    case DpuState::kHere:
      return "here";
    case DpuState::kRuntimeDown:
      return "runtime-down";
    case DpuState::kLost:
      return "lost";
  }
  return "";
}

DpuLink::DpuLink(DpuLinkOptions options, CriClient& dpu, v1::DpuRuntime::StubInterface& runtime, PodTable& table,
                 LogMirror& mirror, Tasks& tasks)
    : options_(std::move(options)),
      dpu_(dpu),
      runtime_(runtime),
      table_(table),
      mirror_(mirror),
      tasks_(tasks),
      lease_(options_.heterod_socket, [this] { PollSoon(); }) {}

DpuLink::~DpuLink() { Stop(); }

void DpuLink::Stop() {
  lease_.Stop();
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  for (std::thread* thread : {&thread_, &listener_}) {
    if (thread->joinable()) thread->join();
  }
}

void DpuLink::Start() {
  last_good_ = last_sign_ = steady_clock::now();  // the first lease counts from here
  thread_ = std::thread([this] { Loop(); });
  listener_ = std::thread([this] { Listen(); });
}

void DpuLink::WaitUntilKnown() {
  std::unique_lock lock(mutex_);
  // A lease ends by itself; a thread that got no processor for another one must not keep kubelet from its Node.
  if (!changed_.wait_for(lock, 2 * options_.duration, [this] { return known_ || stop_; })) {
    spdlog::warn("whether the DPU is there is not known after {} ms; starting without it",
                 (2 * options_.duration).count());
  }
}

bool DpuLink::IsLost(steady_clock::time_point now) const {
  const HeterodLease::State heterod = lease_.StateAt(now);
  if (heterod.word == HeterodLease::Word::kLost) return true;
  if (heterod.word == HeterodLease::Word::kAlive) return false;
  // Nobody says: what the DPU itself answered counts, from the last heartbeat on.
  return now - std::max(last_sign_, heterod.alive_at.value_or(last_sign_)) >= options_.duration;
}

DpuState DpuLink::state() const {
  std::lock_guard lock(mutex_);
  const auto now = steady_clock::now();
  if (IsLost(now)) return DpuState::kLost;
  if (here_ && now - last_good_ < options_.duration) return DpuState::kHere;
  // One that returns is as good as lost until it is fenced; one that never was lost only lacks its runtime.
  return here_ || !lost_ ? DpuState::kRuntimeDown : DpuState::kLost;
}

std::string DpuLink::LastError() const {
  std::lock_guard lock(mutex_);
  return last_error_;
}

absl::Status DpuLink::AwayError() const {
  const bool runtime = state() == DpuState::kRuntimeDown;
  const std::string who = runtime ? "the DPU's runtime is away" : "the DPU is away";
  auto age = LeaseAge();
  return absl::UnavailableError(age.count() < 0 ? who + ": it has not answered yet"
                                                : fmt::format("{}: no answer for {} s", who, age.count() / 1000));
}

milliseconds DpuLink::LeaseAge() const {
  std::lock_guard lock(mutex_);
  if (!ever_) return milliseconds(-1);
  return std::chrono::duration_cast<milliseconds>(steady_clock::now() - last_good_);
}

void DpuLink::PollSoon() {
  {
    std::lock_guard lock(mutex_);
    poll_soon_ = true;
  }
  changed_.notify_all();
}

void DpuLink::Loop() {
  while (true) {
    auto begun = steady_clock::now();
    absl::Status round = Round();
    // What calls changed before the DPU went is on disk before it returns: we may not live so long.
    if (const uint64_t version = table_.version(); !round.ok() && (unsaved_ || version != saved_version_))
      SaveTable(version);
    std::unique_lock lock(mutex_);
    if (round.ok()) {
      if (!here_) spdlog::info("the DPU is here");
      if (runtime_down_) spdlog::info("the DPU's runtime answers again");
      here_ = ever_ = known_ = true;
      lost_ = runtime_down_ = false;
      last_good_ = begun;  // what was true when we asked
      last_error_.clear();
      changed_.notify_all();
    } else {
      if (last_error_ != Message(round)) spdlog::warn("the DPU does not answer: {}", ToString(round));
      last_error_ = Message(round);
      const auto now = steady_clock::now();
      if (IsLost(now)) {
        here_ = false;  // before Lose: one whose heartbeats return meanwhile is not there until it is fenced
        if (!lost_) {
          lost_ = true;
          runtime_down_ = false;
          lock.unlock();
          Lose();
          lock.lock();
        }
        known_ = true;
        changed_.notify_all();
      } else if (!runtime_down_ && !lost_ && now - last_good_ >= options_.duration) {
        spdlog::error(
            "the DPU is alive, its runtime has not answered for {} ms: what runs there goes on, nothing new "
            "is put there ({})",
            options_.duration.count(), last_error_);
        runtime_down_ = known_ = true;
        changed_.notify_all();
      }
    }
    // A DPU that is on its way is met soon: at the start of a Node both PUs come up together.
    auto pause = here_ && !runtime_down_ ? options_.interval : std::min(options_.interval, kLookForDpu);
    changed_.wait_until(lock, begun + pause, [this] { return stop_ || poll_soon_; });
    poll_soon_ = false;
    if (stop_) return;
  }
}

absl::Status DpuLink::Round() {
  auto check_lease = [this] {
    const HeterodLease::State heterod = lease_.state();
    if (heterod.word != HeterodLease::Word::kLost) return absl::OkStatus();
    return absl::UnavailableError("no heartbeat within heterod's lease: " + heterod.reason);
  };
  HK_RETURN_IF_ERROR(check_lease());
  HK_RETURN_IF_ERROR(HearHeterod());
  bool here;
  {
    std::lock_guard lock(mutex_);
    here = here_;
  }
  if (!here) HK_RETURN_IF_ERROR(Annotate(Fence(), "stop what is left of older epochs"));
  HK_RETURN_IF_ERROR(Poll());
  return check_lease();  // it may have ended while we read
}

// Its runtime, behind the same channel, may be away while it is not: the relay's UNAVAILABLE and that of a DPU that is
// gone look the same. Of the answer nothing is used: an error of its own (an older heterod has no About) is one as
// well.
absl::Status DpuLink::HearHeterod() {
  const auto asked = steady_clock::now();
  grpc::ClientContext context;
  context.set_deadline(In(options_.duration / 2));
  v1::AboutReply about;
  const absl::Status answer = FromGrpc(runtime_.About(&context, {}, &about));
  if (IsAway(answer)) return Annotate(answer, "heterod on the DPU");
  std::lock_guard lock(mutex_);
  last_sign_ = std::max(last_sign_, asked);
  return absl::OkStatus();
}

void DpuLink::Listen() {
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, options_.interval, [this] { return stop_; })) {
    if (steady_clock::now() - last_sign_ < options_.interval) continue;
    lock.unlock();
    HearHeterod().IgnoreError();  // the round says so
    lock.lock();
  }
}

}  // namespace heterok8s::cri
