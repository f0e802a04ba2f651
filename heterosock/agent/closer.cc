#include "heterosock/agent/closer.h"

#include <algorithm>

namespace heterok8s::heterosock::agent {
namespace {

constexpr int kMaxThreads = 64;
constexpr int kMaxIdle = 2;
constexpr int kMaxOfDomain = 24;  // threads: fewer than half, so that two hostile domains leave some

}  // namespace

struct Closer::State {
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::pair<sys::UniqueFd, std::string>> queue;
  std::map<std::string, int> closing;  // threads that are in close() for a domain
  int threads = 0, idle = 0;
  bool stopping = false;

  bool Saturated(const std::string& domain) const {
    auto found = closing.find(domain);
    return found != closing.end() && found->second >= kMaxOfDomain;
  }
  // The first whose domain may have another thread.
  auto Next() {
    return std::find_if(queue.begin(), queue.end(), [this](const auto& entry) { return !Saturated(entry.second); });
  }

  static void Spawn(const std::shared_ptr<State>& state) {
    ++state->threads;
    std::thread([state] { Run(state); }).detach();
  }

  static void Run(const std::shared_ptr<State>& state) {
    std::unique_lock lock(state->mutex);
    while (state->idle < kMaxIdle) {
      ++state->idle;
      state->changed.wait(lock, [&] { return state->stopping || state->Next() != state->queue.end(); });
      --state->idle;
      auto next = state->Next();
      if (next == state->queue.end()) break;
      auto [fd, domain] = std::move(*next);
      state->queue.erase(next);
      ++state->closing[domain];
      // Whoever is about to close something makes sure that somebody is left to close the next.
      if (state->idle == 0 && state->threads < kMaxThreads) Spawn(state);
      lock.unlock();
      fd.reset();
      lock.lock();
      if (--state->closing[domain] == 0) state->closing.erase(domain);
      if (!state->queue.empty()) state->changed.notify_one();
    }
    --state->threads;
  }
};

Closer::Closer() : state_(std::make_shared<State>()) {}

Closer::~Closer() {
  std::lock_guard lock(state_->mutex);
  state_->stopping = true;
  state_->changed.notify_all();
}

bool Closer::Close(sys::UniqueFd fd, const std::string& domain) {
  std::lock_guard lock(state_->mutex);
  state_->queue.emplace_back(std::move(fd), domain);
  if (state_->threads == 0) State::Spawn(state_);
  state_->changed.notify_one();
  return !state_->Saturated(domain);
}

bool Closer::Saturated(const std::string& domain) const {
  std::lock_guard lock(state_->mutex);
  return state_->Saturated(domain);
}

}  // namespace heterok8s::heterosock::agent
