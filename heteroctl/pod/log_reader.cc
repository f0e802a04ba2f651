#include "heteroctl/pod/log_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "common/sys/unique_fd.h"

namespace heterok8s::ctl {
namespace {

constexpr int kStillThereMs = 500;  // how often a silent container is asked for

// Offset of the first of the last `lines` lines, read backwards in blocks.
off_t TailOffset(int fd, off_t size, int lines) {
  char block[65536];
  off_t end = size;
  int seen = 0;
  while (end > 0) {
    off_t start = std::max<off_t>(0, end - static_cast<off_t>(sizeof block));
    ssize_t n = pread(fd, block, static_cast<size_t>(end - start), start);
    if (n <= 0) return 0;
    for (ssize_t i = n; i-- > 0;) {
      bool last_byte = start + i == size - 1;  // the file's own final newline ends the last line
      if (block[i] == '\n' && !last_byte && ++seen == lines) return start + i + 1;
    }
    end = start;
  }
  return 0;
}

class Follower {
 public:
  explicit Follower(const std::string& path) : watch_(inotify_init1(IN_CLOEXEC | IN_NONBLOCK)) {
    if (watch_.valid()) inotify_add_watch(watch_.get(), path.c_str(), IN_MODIFY | IN_MOVE_SELF | IN_DELETE_SELF);
  }
  // True when something happened to the file within the time.
  bool Wait(int milliseconds) {
    pollfd fd{watch_.get(), POLLIN, 0};
    if (poll(&fd, 1, milliseconds) <= 0) return false;
    char events[4096];
    while (read(watch_.get(), events, sizeof events) > 0) {
    }
    return true;
  }

 private:
  sys::UniqueFd watch_;
};

}  // namespace

LogLine ParseLogLine(std::string_view line) {
  LogLine parsed;
  size_t first = line.find(' ');
  size_t second = first == std::string_view::npos ? first : line.find(' ', first + 1);
  size_t third = second == std::string_view::npos ? second : line.find(' ', second + 1);
  if (third == std::string_view::npos) {
    parsed.text = line;
    return parsed;
  }
  std::string_view stream = line.substr(first + 1, second - first - 1);
  std::string_view tag = line.substr(second + 1, third - second - 1);
  if (stream != "stdout" && stream != "stderr") {
    parsed.text = line;
    return parsed;
  }
  parsed.time = line.substr(0, first);
  parsed.stream = stream;
  parsed.partial = tag.starts_with('P');  // tags are joined by ':'; the first is P or F
  parsed.text = line.substr(third + 1);
  return parsed;
}

absl::Status ReadLog(const std::string& path, const LogOptions& options,
                     const std::function<void(const LogLine&)>& sink) {
  sys::UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoToStatus(errno, fmt::format("open log '{}'", path));
  Follower follower(path);
  struct stat st {};
  if (fstat(fd.get(), &st) != 0) return ErrnoToStatus(errno, fmt::format("stat log '{}'", path));
  off_t at = options.tail == 0 ? st.st_size : options.tail > 0 ? TailOffset(fd.get(), st.st_size, options.tail) : 0;

  std::string rest;
  char buffer[65536];
  bool running = true;
  while (true) {
    ssize_t n = pread(fd.get(), buffer, sizeof buffer, at);
    if (n < 0 && errno != EINTR) return ErrnoToStatus(errno, fmt::format("read log '{}'", path));
    if (n > 0) {
      at += n;
      rest.append(buffer, static_cast<size_t>(n));
      size_t start = 0;
      for (size_t end; (end = rest.find('\n', start)) != std::string::npos; start = end + 1) {
        sink(ParseLogLine(std::string_view(rest).substr(start, end - start)));
      }
      rest.erase(0, start);
      continue;
    }
    // What was written before the container ended is drained before the end is believed.
    if (!options.follow || !running) break;
    if (!follower.Wait(kStillThereMs) && options.still_running) running = options.still_running();
  }
  if (!rest.empty()) sink(ParseLogLine(rest));
  return absl::OkStatus();
}

std::vector<std::string> LastLines(const std::string& path, int count) {
  std::vector<std::string> lines;
  ReadLog(path, {.tail = count, .follow = false, .still_running = nullptr}, [&](const LogLine& line) {
    lines.push_back(line.text);
  }).IgnoreError();  // no log is shown as no lines
  return lines;
}

}  // namespace heterok8s::ctl
