#include "heterosock/ctl/admin_client.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>

#include "common/sys/unique_fd.h"

namespace heterok8s::heterosock::ctl {
namespace {

using nlohmann::json;
constexpr int kPatienceMs = 10000;

class Lines {
 public:
  static absl::StatusOr<Lines> Open(const std::string& path, const json& request) {
    sockaddr_un address = {.sun_family = AF_UNIX};
    if (path.size() >= sizeof address.sun_path) return absl::InvalidArgumentError("the socket's path is too long");
    path.copy(address.sun_path, path.size());
    Lines lines;
    lines.path_ = path;
    lines.fd_.reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!lines.fd_.valid()) return ErrnoToStatus(errno, "make a socket");
    if (connect(lines.fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      return ErrnoToStatus(errno, fmt::format("connect to heterosockd at '{}'", path));
    }
    const std::string text = request.dump() + "\n";
    // EPIPE: it says why it does not listen, and that can be read.
    const ssize_t sent = send(lines.fd_.get(), text.data(), text.size(), MSG_NOSIGNAL);
    if (sent != static_cast<ssize_t>(text.size()) && errno != EPIPE) {
      return ErrnoToStatus(errno, fmt::format("ask heterosockd at '{}'", path));
    }
    return lines;
  }

  // The next line as JSON; -1 waits for ever.
  absl::StatusOr<json> Next(int patience_ms) {
    size_t end;
    while ((end = buffer_.find('\n')) == std::string::npos) {
      pollfd p{fd_.get(), POLLIN, 0};
      const int ready = poll(&p, 1, patience_ms);
      if (ready < 0 && errno == EINTR) continue;
      if (ready == 0) return absl::DeadlineExceededError(fmt::format("heterosockd at '{}' does not answer", path_));
      char chunk[65536];
      const ssize_t got = recv(fd_.get(), chunk, sizeof chunk, 0);
      if (got <= 0) return absl::UnavailableError(fmt::format("heterosockd at '{}' closed the connection", path_));
      buffer_.append(chunk, static_cast<size_t>(got));
    }
    json line = json::parse(buffer_.substr(0, end), nullptr, /*allow_exceptions=*/false);
    buffer_.erase(0, end + 1);
    if (!line.is_object()) return absl::InternalError(fmt::format("heterosockd at '{}' sent no JSON", path_));
    if (line.contains("error")) return absl::InvalidArgumentError(line["error"].dump());
    return line;
  }

 private:
  sys::UniqueFd fd_;
  std::string path_, buffer_;
};

}  // namespace

absl::StatusOr<json> Ask(const std::string& path, const json& request) {
  HK_ASSIGN_OR_RETURN(Lines lines, Lines::Open(path, request));
  return lines.Next(kPatienceMs);
}

absl::Status Follow(const std::string& path, const std::function<bool(const json&)>& each) {
  HK_ASSIGN_OR_RETURN(Lines lines, Lines::Open(path, {{"command", "trace"}}));
  HK_RETURN_IF_ERROR(lines.Next(kPatienceMs).status());
  while (true) {
    HK_ASSIGN_OR_RETURN(json event, lines.Next(-1));
    if (!each(event)) return absl::OkStatus();
  }
}

}  // namespace heterok8s::heterosock::ctl
