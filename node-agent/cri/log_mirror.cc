#include "node-agent/cri/log_mirror.h"

#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

#include "node-agent/cri/mirrored_log.h"

namespace heterok8s::cri {
namespace {

constexpr std::string_view kPosition = ".position";

// The ids are the DPU's.
bool IsFileName(const std::string& id) { return !id.empty() && id.find('/') == std::string::npos; }

std::vector<std::filesystem::path> FilesIn(const std::string& folder) {
  std::error_code error;
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) files.push_back(entry.path());
  return files;
}

}  // namespace

LogMirror::LogMirror(v1::DpuRuntime::StubInterface& stub, std::string position_folder, std::function<void()> on_end)
    : stub_(stub), position_folder_(std::move(position_folder)), on_end_(std::move(on_end)) {
  std::error_code error;
  std::filesystem::create_directories(position_folder_, error);
  for (const std::filesystem::path& file : FilesIn(position_folder_)) {
    if (file.extension() != kPosition) std::filesystem::remove(file, error);  // its writer died before it was whole
  }
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

std::string LogMirror::PositionPath(const std::string& id) const {
  return fmt::format("{}/{}{}", position_folder_, id, kPosition);
}

std::shared_ptr<MirroredLog> LogMirror::Find(const std::string& id) {
  std::lock_guard lock(mutex_);
  auto found = logs_.find(id);
  return found == logs_.end() ? nullptr : found->second;
}

void LogMirror::Ensure(const std::string& id, const std::string& dpu_path, const std::string& host_path, bool running) {
  if (dpu_path.empty() || host_path.empty() || !IsFileName(id)) return;
  std::shared_ptr<MirroredLog> log;
  {
    std::lock_guard lock(mutex_);
    if (closed_) return;
    std::shared_ptr<MirroredLog>& slot = logs_[id];
    if (!slot) {
      slot = std::make_shared<MirroredLog>(stub_, writer_, MirroredLog::Names{dpu_path, host_path, PositionPath(id)},
                                           on_end_);
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
    if (auto found = logs_.find(id); found != logs_.end()) {
      log = std::move(found->second);
      logs_.erase(found);
    }
  }
  if (log) log->Cancel();
  if (IsFileName(id)) unlink(PositionPath(id).c_str());  // also a former life's
}

void LogMirror::KeepOnly(const std::set<std::string>& ids) {
  std::lock_guard lock(mutex_);  // a log is in logs_ before it has a file
  for (const std::filesystem::path& file : FilesIn(position_folder_)) {
    const std::string id = file.stem();
    std::error_code error;
    if (file.extension() == kPosition && !ids.contains(id) && !logs_.contains(id)) std::filesystem::remove(file, error);
  }
}

}  // namespace heterok8s::cri
