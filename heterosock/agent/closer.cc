#include "heterosock/agent/closer.h"

#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid  // timer_create(2)
#endif

namespace heterok8s::heterosock::agent {
namespace {

constexpr int kMaxIdle = 2;
constexpr int kMaxOfDomain = 4;               // threads
constexpr int kMaxBusy = 64;                  // threads, above which a domain has one alone
constexpr int kFull = 512;                    // threads
constexpr size_t kMaxWaiting = 2048;          // descriptors of one domain; a burst of honest ones is fewer
constexpr std::chrono::seconds kPatience(2);  // a library waits no longer for what an agent has begun
constexpr long kCutNs = 2'000'000;            // how long a close may linger

// Interrupts what its thread sleeps in, again and again, while it is armed. Without a timer (timer_create() can fail) a
// close lasts as long as it lasts.
class Interrupter {
 public:
  Interrupter() {
    sigset_t ours;
    sigemptyset(&ours);
    sigaddset(&ours, SIGRTMIN);
    pthread_sigmask(SIG_UNBLOCK, &ours, nullptr);
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGRTMIN;
    event.sigev_notify_thread_id = static_cast<pid_t>(syscall(SYS_gettid));
    valid_ = timer_create(CLOCK_MONOTONIC, &event, &timer_) == 0;
  }
  ~Interrupter() {
    if (valid_) timer_delete(timer_);
  }
  Interrupter(const Interrupter&) = delete;
  Interrupter& operator=(const Interrupter&) = delete;
  void Arm() { Set(kCutNs); }
  void Disarm() { Set(0); }

 private:
  void Set(long ns) {
    const itimerspec when{.it_interval = {0, ns}, .it_value = {0, ns}};
    if (valid_) timer_settime(timer_, 0, &when, nullptr);
  }
  timer_t timer_{};
  bool valid_ = false;
};

}  // namespace

struct Closer::State {
  struct Domain {
    std::deque<std::function<Rest()>> waiting;
    int busy = 0;  // threads that do something for it
  };
  using Domains = std::map<std::string, Domain>;

  std::function<void(sys::UniqueFd)> close;
  std::mutex mutex;
  std::condition_variable changed, finished;
  Domains domains;   // of which something waits or is being done
  std::string last;  // that was served
  int threads = 0, idle = 0, busy = 0, finishing = 0;
  bool stopping = false;

  bool MayServe(const Domain& domain) const {
    if (domain.waiting.empty()) return false;
    return domain.busy == 0 || (domain.busy < kMaxOfDomain && busy < kMaxBusy);
  }
  // In turn, so that one with much to close keeps nobody waiting.
  Domains::iterator Next() {
    auto at = domains.upper_bound(last);
    for (size_t i = 0; i < domains.size(); ++i, ++at) {
      if (at == domains.end()) at = domains.begin();
      if (MayServe(at->second)) return at;
    }
    return domains.end();
  }

  void Finish(const Rest& rest) {
    std::unique_lock lock(mutex);
    if (stopping) return;
    ++finishing;
    lock.unlock();
    rest();
    lock.lock();
    if (--finishing == 0) finished.notify_all();
  }

  // Where no thread can be made, what waits is done by the next that is, or that has time.
  static void Spawn(const std::shared_ptr<State>& state) {
    ++state->threads;
    try {
      std::thread([state] { Run(state); }).detach();
    } catch (const std::system_error&) {
      --state->threads;
    }
  }

  static void Run(const std::shared_ptr<State>& state) {
    Interrupter interrupter;
    std::unique_lock lock(state->mutex);
    while (state->idle < kMaxIdle) {
      ++state->idle;
      state->changed.wait(lock, [&] { return state->stopping || state->Next() != state->domains.end(); });
      --state->idle;
      const auto next = state->Next();
      if (next == state->domains.end()) break;
      Domain& domain = next->second;  // stays while something of it is being done
      state->last = next->first;
      std::function<Rest()> task = std::move(domain.waiting.front());
      domain.waiting.pop_front();
      ++domain.busy;
      ++state->busy;
      // Whoever is about to do something makes sure that somebody is left to do the next.
      if (state->idle == 0) Spawn(state);
      lock.unlock();
      interrupter.Arm();
      Rest rest = task();
      if (rest) state->Finish(rest);
      rest = nullptr;  // what they hold is a stranger's too
      task = nullptr;
      interrupter.Disarm();
      lock.lock();
      --state->busy;
      if (--domain.busy == 0 && domain.waiting.empty()) state->domains.erase(next);
      if (state->Next() != state->domains.end()) state->changed.notify_one();
    }
    --state->threads;
  }
};

Closer::Closer(std::function<void(sys::UniqueFd)> close) : state_(std::make_shared<State>()) {
  state_->close = std::move(close);
  struct sigaction nothing {};
  nothing.sa_handler = [](int) {};
  sigaction(SIGRTMIN, &nothing, nullptr);
}

Closer::~Closer() {
  std::unique_lock lock(state_->mutex);
  state_->stopping = true;
  state_->changed.notify_all();
  state_->finished.wait_for(lock, kPatience, [&] { return state_->finishing == 0; });
}

bool Closer::Close(sys::UniqueFd fd, const std::string& domain) {
  auto held = std::make_shared<sys::UniqueFd>(std::move(fd));
  const auto close = [state = state_.get(), held] {  // whoever runs it holds State
    state->close(std::move(*held));
    return Rest();
  };
  return Do(close, domain);
}

bool Closer::Do(std::function<Rest()> task, const std::string& domain) {
  std::lock_guard lock(state_->mutex);
  std::deque<std::function<Rest()>>& waiting = state_->domains[domain].waiting;
  waiting.push_back(std::move(task));
  if (state_->idle == 0 && state_->Next() != state_->domains.end()) State::Spawn(state_);
  state_->changed.notify_one();
  return waiting.size() < kMaxWaiting;
}

bool Closer::Saturated(const std::string& domain) const {
  std::lock_guard lock(state_->mutex);
  auto found = state_->domains.find(domain);
  return found != state_->domains.end() && found->second.waiting.size() >= kMaxWaiting;
}

bool Closer::Full() const {
  std::lock_guard lock(state_->mutex);
  return state_->busy >= kFull;
}

}  // namespace heterok8s::heterosock::agent
