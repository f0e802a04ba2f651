#include "node-agent/cri/log_mirror.h"

#include <filesystem>

#include "node-agent/cri/mirrored_log.h"

namespace heterok8s::cri {

LogMirror::LogMirror(v1::DpuRuntime::StubInterface& stub, std::string position_folder, std::function<void()> on_end)
    : stub_(stub), position_folder_(std::move(position_folder)), on_end_(std::move(on_end)) {
  std::error_code error;
  std::filesystem::create_directories(position_folder_, error);
}

void LogMirror::Close() {
  std::map<std::string, std::shared_ptr<MirroredLog>> logs;
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    logs.swap(logs_);
  }
  for (auto& [id, log] : logs) log->Cancel();
}

std::shared_ptr<MirroredLog> LogMirror::Find(const std::string& id) {
  std::lock_guard lock(mutex_);
  auto found = logs_.find(id);
  return found == logs_.end() ? nullptr : found->second;
}

void LogMirror::Ensure(const std::string& id, const std::string& dpu_path, const std::string& host_path, bool running) {
  if (dpu_path.empty() || host_path.empty()) return;
  std::shared_ptr<MirroredLog> log;
  {
    std::lock_guard lock(mutex_);
    if (closed_) return;
    std::shared_ptr<MirroredLog>& slot = logs_[id];
    if (!slot) {
      slot = std::make_shared<MirroredLog>(
          stub_, MirroredLog::Names{dpu_path, host_path, position_folder_ + "/" + id + ".position"}, on_end_);
    }
    log = slot;
  }
  log->Ensure(running);
}

bool LogMirror::Drain(const std::string& id, std::chrono::milliseconds wait) {
  std::shared_ptr<MirroredLog> log = Find(id);
  return !log || log->Drain(wait);
}

absl::StatusOr<uint64_t> LogMirror::Reopen(const std::string& id) {
  std::shared_ptr<MirroredLog> log = Find(id);
  if (!log) return absl::NotFoundError("no log is mirrored for container " + id);
  return log->Reopen();
}

void LogMirror::Forget(const std::string& id) {
  std::shared_ptr<MirroredLog> log;
  {
    std::lock_guard lock(mutex_);
    auto found = logs_.find(id);
    if (found == logs_.end()) return;
    log = std::move(found->second);
    logs_.erase(found);
  }
  log->Cancel();
  log->ForgetPosition();
}

}  // namespace heterok8s::cri
