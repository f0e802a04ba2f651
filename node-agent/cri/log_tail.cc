#include "node-agent/cri/log_tail.h"

#include <fmt/format.h>
#include <linux/falloc.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include <cerrno>

namespace heterok8s::cri {
namespace {

constexpr size_t kPieceBytes = 256 << 10;
constexpr uint64_t kBlock = 4096;
constexpr std::chrono::milliseconds kSecondLook{50};

}  // namespace

absl::StatusOr<LogTail::Piece> LogTail::Next(std::chrono::milliseconds wait) {
  auto until = std::chrono::steady_clock::now() + wait;
  while (true) {
    if (!file_.valid()) {
      HK_ASSIGN_OR_RETURN(bool open, OpenNow());
      if (!open && !follow_) return Piece{.kind = Piece::Kind::kEnd};
    }
    if (file_.valid()) {
      // Asked before the read: what a writer that is gone had written is then surely seen by the read.
      bool writer = follow_ && HasWriter();
      std::string data(kPieceBytes, '\0');
      ssize_t got = pread(file_.get(), data.data(), data.size(), static_cast<off_t>(offset_));
      if (got < 0) return ErrnoToStatus(errno, fmt::format("read '{}'", path_));
      if (got > 0) {
        data.resize(static_cast<size_t>(got));
        // Whole lines only, so that a reader of the host's file never sees half of one; but for a line that is longer
        // than a piece, and one that nobody will end.
        size_t whole = data.rfind('\n') + 1;
        if (whole == 0 && (!writer || data.size() == kPieceBytes)) whole = data.size();
        if (whole > 0) {
          data.resize(whole);
          Piece piece{.kind = Piece::Kind::kData, .offset = offset_, .data = std::move(data)};
          offset_ += whole;
          writerless_looks_ = 0;
          return piece;
        }
      }
      if (got == 0) HK_RETURN_IF_ERROR(CheckSize());  // it may have been cut off beneath us
      if (writer) {
        writerless_looks_ = 0;
      } else if (got == 0 && (!follow_ || ++writerless_looks_ > 1)) {
        // A second look, after a wait: the event of a file's creation comes before its creator counts as a writer.
        return Piece{.kind = Piece::Kind::kEnd};
      }
    }
    auto left = std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    if (left.count() <= 0) return Piece{.kind = Piece::Kind::kNothingYet};
    // A file without a writer is looked at again soon: no event announces that its creator never wrote.
    HK_RETURN_IF_ERROR(Wait(writerless_looks_ > 0 ? std::min(left, kSecondLook) : left));
  }
}

absl::StatusOr<bool> LogTail::OpenNow() {
  // The watch comes before the look, so that a file that appears between both wakes us.
  if (follow_) HK_RETURN_IF_ERROR(Watch());
  auto file = root_.OpenFile(path_, O_RDONLY);
  if (file.status().code() == absl::StatusCode::kNotFound) return false;
  HK_RETURN_IF_ERROR(file.status());
  struct stat info = {};
  if (fstat(file->get(), &info) != 0) return ErrnoToStatus(errno, fmt::format("stat '{}'", path_));
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(fmt::format("'{}' is no file", path_));
  if (offset_ > static_cast<uint64_t>(info.st_size)) {
    return absl::OutOfRangeError(fmt::format("'{}' has {} bytes, fewer than {}", path_, info.st_size, offset_));
  }
  if (static_cast<int64_t>(info.st_blocks) * 512 < info.st_size) {
    off_t data = lseek(file->get(), static_cast<off_t>(offset_), SEEK_DATA);
    if (data > 0) offset_ = static_cast<uint64_t>(data);
  }
  file_ = *std::move(file);
  if (follow_) {
    // By the descriptor: the name may lead elsewhere by now.
    std::string self = fmt::format("/proc/self/fd/{}", file_.get());
    if (inotify_add_watch(inotify_.get(), self.c_str(), IN_MODIFY | IN_CLOSE_WRITE | IN_DELETE_SELF | IN_ATTRIB) < 0) {
      return ErrnoToStatus(errno, fmt::format("watch '{}'", path_));
    }
  }
  return true;
}

absl::Status LogTail::CheckSize() const {
  struct stat info = {};
  if (fstat(file_.get(), &info) != 0) return ErrnoToStatus(errno, fmt::format("stat '{}'", path_));
  if (offset_ <= static_cast<uint64_t>(info.st_size)) return absl::OkStatus();
  return absl::OutOfRangeError(fmt::format("'{}' has {} bytes, fewer than {}", path_, info.st_size, offset_));
}

absl::Status LogTail::Watch() {
  if (inotify_.valid()) return absl::OkStatus();
  sys::UniqueFd inotify(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!inotify.valid()) return ErrnoToStatus(errno, "inotify");
  size_t slash = path_.rfind('/');
  sys::UniqueFd folder;
  std::string target = root_.path();
  if (slash != std::string::npos) {
    HK_ASSIGN_OR_RETURN(folder, root_.OpenFile(path_.substr(0, slash), O_PATH | O_DIRECTORY));
    target = fmt::format("/proc/self/fd/{}", folder.get());
  }
  if (inotify_add_watch(inotify.get(), target.c_str(), IN_CREATE | IN_MOVED_TO) < 0) {
    return ErrnoToStatus(errno, fmt::format("watch the folder of '{}'", path_));
  }
  inotify_ = std::move(inotify);
  return absl::OkStatus();
}

bool LogTail::HasWriter() const {
  // A read lease is granted only while nobody has the file open for writing.
  if (fcntl(file_.get(), F_SETLEASE, F_RDLCK) == 0) {
    fcntl(file_.get(), F_SETLEASE, F_UNLCK);
    return false;
  }
  // EAGAIN: there is one. Anything else: this file system has no leases, and the event that it was closed must do.
  return errno == EAGAIN || !closed_seen_;
}

absl::Status LogTail::Wait(std::chrono::milliseconds wait) {
  pollfd waiting = {.fd = inotify_.get(), .events = POLLIN, .revents = 0};
  if (poll(&waiting, 1, static_cast<int>(wait.count())) < 0 && errno != EINTR) return ErrnoToStatus(errno, "poll");
  alignas(inotify_event) char events[4096];
  for (ssize_t got; (got = read(inotify_.get(), events, sizeof events)) > 0;) {
    for (ssize_t at = 0; at < got;) {
      auto* event = reinterpret_cast<inotify_event*>(events + at);
      if ((event->mask & IN_CLOSE_WRITE) != 0) closed_seen_ = true;
      if ((event->mask & IN_MODIFY) != 0) closed_seen_ = false;
      at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
    }
  }
  return absl::OkStatus();
}

absl::Status ReleaseLog(const ConfinedRoot& root, const std::string& path, uint64_t offset) {
  auto file = root.OpenFile(path, O_WRONLY);
  if (file.status().code() == absl::StatusCode::kNotFound) return absl::OkStatus();
  HK_RETURN_IF_ERROR(file.status());
  struct stat info = {};
  if (fstat(file->get(), &info) != 0) return ErrnoToStatus(errno, fmt::format("stat '{}'", path));
  uint64_t bytes = std::min(offset, static_cast<uint64_t>(info.st_size)) / kBlock * kBlock;
  if (bytes == 0) return absl::OkStatus();
  if (fallocate(file->get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(bytes)) != 0 &&
      errno != EOPNOTSUPP) {  // a file system without holes keeps the bytes until the container is removed
    return ErrnoToStatus(errno, fmt::format("release {} bytes of '{}'", bytes, path));
  }
  return absl::OkStatus();
}

}  // namespace heterok8s::cri
