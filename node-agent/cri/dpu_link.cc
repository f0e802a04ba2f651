// The lease: when the DPU counts as there.
#include "node-agent/cri/dpu_link.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kLookForDpu{200};

}  // namespace

DpuLink::DpuLink(DpuLinkOptions options, CriClient& dpu, v1::DpuRuntime::StubInterface& runtime, PodTable& table,
                 LogMirror& mirror, Tasks& tasks)
    : options_(std::move(options)), dpu_(dpu), runtime_(runtime), table_(table), mirror_(mirror), tasks_(tasks) {}

DpuLink::~DpuLink() { Stop(); }

void DpuLink::Stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void DpuLink::Start() {
  last_good_ = steady_clock::now();  // the first lease counts from here
  thread_ = std::thread([this] { Loop(); });
}

void DpuLink::WaitUntilKnown() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return known_ || stop_; });
}

bool DpuLink::Valid() const {
  std::lock_guard lock(mutex_);
  return here_ && steady_clock::now() - last_good_ < options_.duration;
}

std::string DpuLink::LastError() const {
  std::lock_guard lock(mutex_);
  return last_error_;
}

absl::Status DpuLink::AwayError() const {
  auto age = LeaseAge();
  return absl::UnavailableError(age.count() < 0
                                    ? "the DPU is away: it has not answered yet"
                                    : fmt::format("the DPU is away: no answer for {} s", age.count() / 1000));
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
    std::unique_lock lock(mutex_);
    if (round.ok()) {
      if (!here_) spdlog::info("the DPU is here");
      here_ = ever_ = known_ = true;
      last_good_ = begun;  // what was true when we asked
      last_error_.clear();
      changed_.notify_all();
    } else {
      if (last_error_ != Message(round)) spdlog::warn("the DPU does not answer: {}", ToString(round));
      last_error_ = Message(round);
      if ((here_ || !known_) && steady_clock::now() - last_good_ >= options_.duration) {
        lock.unlock();
        Lose();
        lock.lock();
        here_ = false;
        known_ = true;
        changed_.notify_all();
      }
    }
    // A DPU that is on its way is met soon: at the start of a Node both PUs come up together.
    auto pause = here_ ? options_.interval : std::min(options_.interval, kLookForDpu);
    changed_.wait_until(lock, begun + pause, [this] { return stop_ || poll_soon_; });
    poll_soon_ = false;
    if (stop_) return;
  }
}

absl::Status DpuLink::Round() {
  HK_RETURN_IF_ERROR(Annotate(
      dpu_.Call<rt::VersionResponse>(kVersion, rt::VersionRequest(), In(options_.interval)).status(), "Version"));
  bool here;
  {
    std::lock_guard lock(mutex_);
    here = here_;
  }
  if (!here) HK_RETURN_IF_ERROR(Annotate(Fence(), "stop what is left of older epochs"));
  return Poll();
}

}  // namespace heterok8s::cri
