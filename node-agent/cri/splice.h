// A TCP connection and a gRPC stream, joined byte for byte in both directions.
//
// Purpose: one half of a streaming session; heterocri and the DPU's heterod run one each.
// Threading: Splice blocks its thread until the session is over and uses one more; the functions of `StreamEnd` are
// called from both, `read` from the calling one only, `write` from the other one only.
// Ownership: borrows the socket; the caller closes it. Errors: none to act on: either side's end ends the session.
// Deadlines: a session lives as long as its two ends (the runtime ends idle ones); after one end has gone, the other
// has kLinger to take the last bytes.
//
//   Splice(socket.get(), {.read = …, .write = …, .finish = …, .cancel = …, .alive = …});
#pragma once

#include <chrono>
#include <functional>
#include <string>

namespace heterok8s::cri {

struct StreamEnd {
  // False at the stream's end, or with *end set by its last message.
  std::function<bool(std::string* data, bool* end)> read;
  std::function<bool(const std::string& data)> write;  // blocks while the other side does not take more
  std::function<void()> finish;                        // after the last write: the socket has ended
  std::function<void()> cancel;                        // ends the stream now; makes read return
  std::function<bool()> alive;                         // asked a few times a second
};

inline constexpr std::chrono::seconds kLinger{5};

void Splice(int socket, const StreamEnd& stream);

}  // namespace heterok8s::cri
