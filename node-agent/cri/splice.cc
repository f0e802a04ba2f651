#include "node-agent/cri/splice.h"

#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <cerrno>
#include <system_error>
#include <thread>

namespace heterok8s::cri {
namespace {

using std::chrono::steady_clock;

constexpr size_t kPieceBytes = 32 << 10;
constexpr std::chrono::milliseconds kLook{200};  // how late `alive` and the other direction's end are seen

bool SendAll(int socket, std::string_view data) {
  while (!data.empty()) {
    ssize_t sent = send(socket, data.data(), data.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    data.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

}  // namespace

void Splice(int socket, const StreamEnd& stream) {
  std::atomic<bool> stream_ended{false};
  auto pump = [&] {
    std::string piece(kPieceBytes, '\0');
    bool cancelled = false;
    bool at_end = false;  // of what the socket says; after it only `alive` and the stream's end are waited for
    steady_clock::time_point linger_until = steady_clock::time_point::max();
    // The socket is left open: `read` may still have a last word for it.
    auto cancel = [&] {
      if (!cancelled) stream.cancel();
      cancelled = true;
    };
    while (true) {
      pollfd waiting = {.fd = socket, .events = static_cast<short>(at_end ? 0 : POLLIN), .revents = 0};
      if (at_end && cancelled) waiting.fd = -1;
      int ready = poll(&waiting, 1, static_cast<int>(kLook.count()));
      if (at_end && stream_ended) return;
      if (!stream.alive()) cancel();
      if (stream_ended || cancelled) linger_until = std::min(linger_until, steady_clock::now() + kLinger);
      if (steady_clock::now() > linger_until || (ready < 0 && errno != EINTR)) {
        cancel();
        // A send that waits ends, and the other end hears of it although it did not take what came before.
        const linger reset = {.l_onoff = 1, .l_linger = 0};
        setsockopt(socket, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        shutdown(socket, SHUT_RDWR);
        return;
      }
      if (ready <= 0) continue;
      if (at_end) {  // nobody is there to take what the stream has left
        cancel();
        continue;
      }
      ssize_t got = recv(socket, piece.data(), piece.size(), 0);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return cancel();
      if (got == 0) {
        if (!cancelled) stream.finish();
        at_end = true;
        continue;
      }
      // After the stream's end the last bytes are read and dropped: a socket that is closed with unread bytes resets
      // its connection, and the peer would lose what it was sent.
      if (!stream_ended && !cancelled && !stream.write(piece.substr(0, static_cast<size_t>(got)))) cancel();
    }
  };
  std::thread from_socket;
  try {
    from_socket = std::thread(pump);
  } catch (const std::system_error&) {  // no more threads on this machine: no session
    stream.cancel();
    return;
  }
  std::string data;
  for (bool end = false; !end && stream.read(&data, &end);) {
    if (SendAll(socket, data)) continue;
    stream.cancel();
    break;
  }
  stream_ended = true;
  shutdown(socket, SHUT_WR);
  from_socket.join();
}

}  // namespace heterok8s::cri
