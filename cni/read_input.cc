#include "cni/read_input.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "common/cni/wire.h"

namespace heterok8s::cni {

absl::StatusOr<std::string> ReadInput(int fd, std::chrono::milliseconds patience) {
  const auto give_up = std::chrono::steady_clock::now() + patience;
  std::string text;
  char buffer[65536];
  while (true) {
    using std::chrono::milliseconds;
    const auto left = std::chrono::ceil<milliseconds>(give_up - std::chrono::steady_clock::now());
    pollfd input{.fd = fd, .events = POLLIN};
    const int ready = poll(&input, 1, static_cast<int>(std::max(left, milliseconds(0)).count()));
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return ErrnoToStatus(errno, "wait for stdin");
    if (ready == 0) {
      return absl::DeadlineExceededError(
          fmt::format("stdin is not closed after {} ms: {} bytes of the network configuration have come",
                      patience.count(), text.size()));
    }
    const ssize_t n = read(fd, buffer, sizeof buffer);
    if (n == 0) return text;
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0) return ErrnoToStatus(errno, "read stdin");
    text.append(buffer, static_cast<size_t>(n));
    if (text.size() > kMaxStdinBytes) return absl::ResourceExhaustedError("stdin is longer than 4 MiB");
  }
}

}  // namespace heterok8s::cni
