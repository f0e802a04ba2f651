#include "common/fault/fault.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <thread>

namespace heterok8s::fault {
namespace {

struct Armed {
  std::function<absl::Status()> action;
  unsigned nth = 0;  // 0: every pass
  unsigned passes = 0;
};

// Points register during static initialisation, in no particular order, so the registry is made by its first user and
// never destroyed.
struct Registry {
  std::mutex mutex;
  std::map<std::string, internal::Point*, std::less<>> points;
  std::map<std::string, Armed, std::less<>> armed;
};
Registry& TheRegistry() {
  static Registry* registry = new Registry;
  return *registry;
}

absl::Status BadSpecification(std::string_view entry, std::string_view why) {
  return absl::InvalidArgumentError(
      fmt::format("fault '{}': {}; wanted NAME=kill|error|delay:MS, optionally @N for the N-th pass", entry, why));
}

bool ParseNumber(std::string_view text, unsigned& number) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

absl::StatusOr<std::function<absl::Status()>> ParseAction(std::string_view entry, std::string_view name,
                                                          std::string_view text) {
  if (text == "kill") {
    return [] {
      kill(getpid(), SIGKILL);
      pause();  // the signal may reach another thread first; nothing after this point may run
      return absl::OkStatus();
    };
  }
  if (text == "error") {
    return [name = std::string(name)] { return absl::InternalError(fmt::format("fault point {}", name)); };
  }
  unsigned milliseconds = 0;
  if (text.starts_with("delay:") && ParseNumber(text.substr(6), milliseconds)) {
    return [milliseconds] {
      std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
      return absl::OkStatus();
    };
  }
  return BadSpecification(entry, fmt::format("'{}' is no action", text));
}

absl::Status ArmOne(std::string_view entry) {
  size_t equals = entry.find('=');
  if (equals == std::string_view::npos) return BadSpecification(entry, "no '='");
  std::string_view name = entry.substr(0, equals), action = entry.substr(equals + 1);
  Armed armed;
  if (size_t at = action.find('@'); at != std::string_view::npos) {
    if (!ParseNumber(action.substr(at + 1), armed.nth) || armed.nth == 0) {
      return BadSpecification(entry, "the pass after '@' is a number from 1");
    }
    action = action.substr(0, at);
  }
  HK_ASSIGN_OR_RETURN(armed.action, ParseAction(entry, name, action));

  Registry& registry = TheRegistry();
  std::lock_guard lock(registry.mutex);
  auto point = registry.points.find(name);
  if (point == registry.points.end()) return BadSpecification(entry, "this program has no such point");
  registry.armed[std::string(name)] = std::move(armed);
  point->second->set_armed(true);
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> List() {
  Registry& registry = TheRegistry();
  std::lock_guard lock(registry.mutex);
  std::vector<std::string> names;
  for (const auto& [name, point] : registry.points) names.push_back(name);
  return names;
}

absl::Status Arm(std::string_view specification) {
  while (!specification.empty()) {
    size_t comma = specification.find(',');
    HK_RETURN_IF_ERROR(ArmOne(specification.substr(0, comma)));
    if (comma == std::string_view::npos) break;
    specification.remove_prefix(comma + 1);
  }
  return absl::OkStatus();
}

absl::Status ArmFromEnvironment() {
  const char* specification = std::getenv("HETEROK8S_FAULT");
  if (specification == nullptr) return absl::OkStatus();
  return Annotate(Arm(specification), "HETEROK8S_FAULT");
}

void DisarmAll() {
  Registry& registry = TheRegistry();
  std::lock_guard lock(registry.mutex);
  for (auto& [name, armed] : registry.armed) registry.points.find(name)->second->set_armed(false);
  registry.armed.clear();
}

ScopedAction::ScopedAction(std::string name, std::function<absl::Status()> action, unsigned nth)
    : name_(std::move(name)) {
  Registry& registry = TheRegistry();
  std::lock_guard lock(registry.mutex);
  auto point = registry.points.find(name_);
  if (point == registry.points.end()) {
    fmt::print(stderr, "this binary has no fault point '{}'\n", name_);
    std::abort();
  }
  registry.armed[name_] = {std::move(action), nth, 0};
  point->second->set_armed(true);
}

ScopedAction::~ScopedAction() {
  Registry& registry = TheRegistry();
  std::lock_guard lock(registry.mutex);
  registry.armed.erase(name_);
  registry.points.find(name_)->second->set_armed(false);
}

namespace internal {

Point::Point(const char* name) : name_(name) {
  Registry& registry = TheRegistry();
  std::lock_guard lock(registry.mutex);
  registry.points.emplace(name, this);
}

absl::Status Point::PassArmed() {
  std::function<absl::Status()> action;
  {
    Registry& registry = TheRegistry();
    std::lock_guard lock(registry.mutex);
    auto it = registry.armed.find(name_);
    if (it == registry.armed.end()) return absl::OkStatus();  // disarmed since the load
    Armed& armed = it->second;
    ++armed.passes;
    if (armed.nth != 0 && armed.passes != armed.nth) return absl::OkStatus();
    action = armed.action;  // run without the lock: it may sleep, or pass other points
  }
  return action();
}

}  // namespace internal
}  // namespace heterok8s::fault
