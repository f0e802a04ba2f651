#include "node-agent/cri/mirrored_log.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>
#include <optional>

#include "common/fault/fault.h"
#include "common/sys/file.h"
#include "node-agent/cri/log_position.h"

namespace heterok8s::cri {
namespace {

namespace fs = std::filesystem;

// One, one more for a log that was cut off while it was followed, one for a connection that broke; then it is Ensure's.
constexpr int kDrainPasses = 3;

// The log of a container that goes on may have no writer: one that has closed its outputs. The owner is told this often
// that it has ended; a container's state may lag behind its log's end for some of these.
constexpr int kEmptyEnds = 10;

// Reads chunks until the server ends the stream; the next one when the last is written. Deletes itself after OnDone;
// holds the log until then.
class Stream final : public grpc::ClientReadReactor<v1::LogChunk> {
 public:
  Stream(std::shared_ptr<MirroredLog> log, LogWriter& writer, std::shared_ptr<grpc::ClientContext> context, bool follow)
      : log_(std::move(log)), writer_(writer), context_(std::move(context)), follow_(follow) {}

  void Start(v1::DpuRuntime::StubInterface& stub, const v1::TailLogRequest& request) {
    request_ = request;
    stub.async()->TailLog(context_.get(), &request_, this);
    AddHold();  // reads are started outside of gRPC's threads: OnDone comes after the last of them
    StartRead(&chunk_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return RemoveHold();
    writer_.Do([this] {
      if (failure_.ok()) failure_ = log_->Append(chunk_);
      if (!failure_.ok()) context_->TryCancel();
      StartRead(&chunk_);
    });
  }
  void OnDone(const grpc::Status& status) override {
    writer_.Do([this, status] { End(status); });
  }

 private:
  void End(const grpc::Status& status) {
    // Before Ended lets the owner go on and drop the channel: were the context the channel's last user, gRPC 1.51 would
    // free the completion queue under this very thread (completion_queue_cc.cc, CallbackAlternativeCQ::Unref joins us).
    context_.reset();
    log_->Ended(failure_.ok() ? status : grpc::Status(grpc::StatusCode::INTERNAL, Message(failure_)), !follow_);
    delete this;
  }

  std::shared_ptr<MirroredLog> log_;
  LogWriter& writer_;
  std::shared_ptr<grpc::ClientContext> context_;
  bool follow_;
  v1::TailLogRequest request_;
  v1::LogChunk chunk_;
  absl::Status failure_;
};

// The size of the file with this inode beside `path`: where kubelet's rotation left it.
std::optional<int64_t> SizeOfSibling(const std::string& path, uint64_t inode) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(fs::path(path).parent_path(), error)) {
    struct stat info = {};
    if (stat(entry.path().c_str(), &info) == 0 && info.st_ino == inode) return info.st_size;
  }
  return std::nullopt;
}

}  // namespace

void MirroredLog::Ensure(bool running) {
  std::lock_guard lock(mutex_);
  if (stream_ || cancelled_ || (complete_ && !running)) return;
  complete_ = false;
  StartStream(running);
}

void MirroredLog::StartStream(bool follow) {
  v1::TailLogRequest request;
  {
    std::lock_guard lock(file_mutex_);
    if (!file_.valid()) {
      if (absl::Status opened = OpenFile(); !opened.ok()) {
        spdlog::warn("log '{}': {}; its lines wait on the DPU", names_.host_path, ToString(opened));
        return;
      }
    }
    request.set_offset(Offset());
  }
  request.set_path(names_.dpu_path);
  request.set_follow(follow);
  stream_ = std::make_shared<grpc::ClientContext>();
  (new Stream(shared_from_this(), writer_, stream_, follow))->Start(stub_, request);
}

absl::Status MirroredLog::OpenFile() {
  std::error_code error;
  fs::create_directories(fs::path(names_.host_path).parent_path(), error);
  sys::UniqueFd file(open(names_.host_path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640));
  if (!file.valid()) return ErrnoToStatus(errno, "open");
  struct stat info = {};
  if (fstat(file.get(), &info) != 0) return ErrnoToStatus(errno, "stat");

  HK_FAULT_POINT("cri.log.before-position");
  std::optional<SavedPosition> saved;
  if (auto bytes = sys::ReadFile(names_.position_path, 4096); bytes.ok()) saved = ParsePosition(*bytes);
  const int64_t former_size =
      saved && saved->inode != info.st_ino ? SizeOfSibling(names_.host_path, saved->inode).value_or(0) : 0;
  base_ = BaseOf(saved, info.st_ino, info.st_size, former_size);
  file_ = std::move(file);
  inode_ = info.st_ino;
  size_ = info.st_size;
  return SavePosition();
}

absl::Status MirroredLog::SavePosition(int64_t base, uint64_t inode) const {
  const std::string bytes = PositionBytes({.base = base, .inode = inode});
  HK_RETURN_IF_ERROR(sys::WriteFileAtomic(names_.position_path, bytes, 0600));
  HK_FAULT_POINT("cri.log.after-position");
  return absl::OkStatus();
}

absl::Status MirroredLog::Append(const v1::LogChunk& chunk) {
  std::lock_guard lock(file_mutex_);
  std::string_view data = chunk.data();
  if (chunk.offset() < Offset()) {
    data.remove_prefix(std::min<uint64_t>(data.size(), Offset() - chunk.offset()));
  } else if (chunk.offset() > Offset()) {
    spdlog::warn("log '{}': bytes {} to {} are gone from the DPU", names_.host_path, Offset(), chunk.offset());
    base_ += static_cast<int64_t>(chunk.offset() - Offset());
    HK_RETURN_IF_ERROR(SavePosition());
  }
  while (!data.empty()) {
    ssize_t written = write(file_.get(), data.data(), data.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoToStatus(errno, "write");
    data.remove_prefix(static_cast<size_t>(written));
    size_ += written;
    empty_ends_ = 0;
  }
  HK_FAULT_POINT("cri.log.after-append");
  return absl::OkStatus();
}

void MirroredLog::Ended(const grpc::Status& status, bool final_pass) {
  bool tell;
  {
    std::lock_guard lock(mutex_);
    std::lock_guard file_lock(file_mutex_);
    stream_.reset();
    tell = status.ok() && !final_pass && !cancelled_ && ++empty_ends_ <= kEmptyEnds;
    // The DPU's file is shorter than what came of it. One of a container that has ended lost its end with the DPU's
    // power, before it was on disk there: the host has it all. One that goes on was cut off by somebody: what is
    // written now stands at its start.
    const bool shorter = status.error_code() == grpc::StatusCode::OUT_OF_RANGE;
    complete_ = final_pass && (status.ok() || shorter);
    if (shorter && final_pass) {
      spdlog::warn("log '{}': {}; the end that the DPU has lost is here", names_.host_path, status.error_message());
    } else if (shorter) {
      spdlog::warn("log '{}': {}; it was cut off, read from its start", names_.host_path, status.error_message());
      base_ = -size_;
      SavePosition().IgnoreError();  // read again at the next start otherwise: lines twice, none lost
    } else if (!status.ok() && !cancelled_ && status.error_message() != last_failure_) {
      spdlog::warn("log '{}': {}; continued at byte {} later", names_.host_path, status.error_message(), Offset());
    }
    last_failure_ = status.error_message();
  }
  changed_.notify_all();
  if (tell && on_end_) on_end_();
}

bool MirroredLog::Drain(std::chrono::milliseconds wait) {
  auto until = std::chrono::steady_clock::now() + wait;
  std::unique_lock lock(mutex_);
  int passes = 0;
  while (!complete_ && !cancelled_) {
    if (!stream_) {
      if (++passes > kDrainPasses) break;
      StartStream(/*follow=*/false);
    }
    if (!stream_ || changed_.wait_until(lock, until) == std::cv_status::timeout) break;
  }
  return complete_;
}

absl::StatusOr<uint64_t> MirroredLog::Reopen() {
  std::lock_guard lock(file_mutex_);
  const uint64_t offset = Offset();
  // When this fails kubelet puts the former file back under its name. So nothing is written any more before a file is
  // opened again by the position that is on disk, and what is on disk changes before we write to the new one.
  file_.reset();
  sys::UniqueFd file(open(names_.host_path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640));
  if (!file.valid()) return ErrnoToStatus(errno, fmt::format("open '{}'", names_.host_path));
  struct stat info = {};
  if (fstat(file.get(), &info) != 0) return ErrnoToStatus(errno, fmt::format("stat '{}'", names_.host_path));
  HK_FAULT_POINT("cri.log-reopen.before-position");
  const int64_t base = static_cast<int64_t>(offset) - info.st_size;
  HK_RETURN_IF_ERROR(Annotate(SavePosition(base, info.st_ino), fmt::format("position of '{}'", names_.host_path)));
  file_ = std::move(file);
  inode_ = info.st_ino;
  size_ = info.st_size;
  base_ = base;
  return offset;
}

void MirroredLog::Cancel() {
  std::unique_lock lock(mutex_);
  cancelled_ = true;
  if (stream_) stream_->TryCancel();
  changed_.wait(lock, [&] { return !stream_; });
}

}  // namespace heterok8s::cri
