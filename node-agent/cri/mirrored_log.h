// One container's log on the host: the file, its position in the DPU's log, and the stream that feeds it.
//
// Threading: thread-safe; what a stream brings is written on the thread of `writer`, and only Reopen, and an Ensure
// that begins a stream, may wait for the disk. Ownership: shared with its stream while one runs; borrows `stub` and
// `writer`. Used by LogMirror only. Errors: of the stream: logged once each; Reopen: errno with the path.
//
//   log->Ensure(/*running=*/true);
//   if (!log->Drain(std::chrono::seconds(1))) …  // its end is not here yet
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "common/status/status.h"
#include "common/sys/unique_fd.h"
#include "node-agent/cri/log_writer.h"
#include "proto/heterok8s/v1/runtime.grpc.pb.h"

namespace heterok8s::cri {

class MirroredLog : public std::enable_shared_from_this<MirroredLog> {
 public:
  struct Names {
    std::string dpu_path, host_path, position_path;
  };
  MirroredLog(v1::DpuRuntime::StubInterface& stub, LogWriter& writer, Names names, std::function<void()> on_end)
      : stub_(stub), writer_(writer), names_(std::move(names)), on_end_(std::move(on_end)) {}

  void Ensure(bool running);
  bool Drain(std::chrono::milliseconds wait);
  absl::StatusOr<uint64_t> Reopen();
  void Cancel();  // and waits for the stream's end

  // Of the stream, on the writer's thread:
  absl::Status Append(const v1::LogChunk& chunk);
  void Ended(const grpc::Status& status, bool final_pass);

 private:
  void StartStream(bool follow);  // mutex_ held
  absl::Status OpenFile();        // file_mutex_ held
  absl::Status SavePosition() const { return SavePosition(base_, inode_); }
  absl::Status SavePosition(int64_t base, uint64_t inode) const;
  uint64_t Offset() const { return static_cast<uint64_t>(base_ + size_); }

  v1::DpuRuntime::StubInterface& stub_;
  LogWriter& writer_;
  const Names names_;
  std::function<void()> on_end_;

  std::mutex file_mutex_;  // of these; held over waits for the disk, and taken after mutex_
  sys::UniqueFd file_;
  uint64_t inode_ = 0;
  int64_t base_ = 0;  // of the file's first byte in the DPU's log; negative when that log is shorter
  int64_t size_ = 0;  // of the host's file

  std::mutex mutex_;  // of these
  std::condition_variable changed_;
  std::string last_failure_;         // said once
  std::atomic<int> empty_ends_ = 0;  // of streams, one after the other, that ended well and brought nothing
  bool cancelled_ = false;
  bool complete_ = false;                        // read to its end after the container had ended
  std::shared_ptr<grpc::ClientContext> stream_;  // null: no stream
};

}  // namespace heterok8s::cri
