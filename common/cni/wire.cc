#include "common/cni/wire.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/json/whole.h"

namespace heterok8s::cni {
namespace {

using Json = nlohmann::json;

// OK when `fd` is ready for `events`, or has failed so that the next call on it will say why.
absl::Status WaitFor(int fd, short events, Deadline deadline) {
  while (true) {
    auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd p = {fd, events, 0};
    int ready = poll(&p, 1, static_cast<int>(std::clamp<int64_t>(left, 0, INT32_MAX)));
    if (ready > 0) return absl::OkStatus();
    if (ready == 0) return absl::DeadlineExceededError("no answer within the deadline");
    if (errno != EINTR) return ErrnoToStatus(errno, "poll");
  }
}

// Tries first and waits only when the socket is not ready: the usual call needs no poll.
absl::Status Send(int fd, const char* data, size_t size, Deadline deadline) {
  while (size > 0) {
    ssize_t n = send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n >= 0) {
      data += n;
      size -= static_cast<size_t>(n);
    } else if (errno == EAGAIN) {
      HK_RETURN_IF_ERROR(WaitFor(fd, POLLOUT, deadline));
    } else if (errno != EINTR) {
      return ErrnoToStatus(errno, "send");
    }
  }
  return absl::OkStatus();
}

absl::Status Receive(int fd, char* data, size_t size, Deadline deadline) {
  while (size > 0) {
    ssize_t n = recv(fd, data, size, MSG_DONTWAIT);
    if (n > 0) {
      data += n;
      size -= static_cast<size_t>(n);
    } else if (n == 0) {
      return absl::UnavailableError("the other side closed the connection");
    } else if (errno == EAGAIN) {
      HK_RETURN_IF_ERROR(WaitFor(fd, POLLIN, deadline));
    } else if (errno != EINTR) {
      return ErrnoToStatus(errno, "receive");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Json> ParseObject(const std::string& text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("frame is not a JSON object");
  return json;
}

// 128 bits of FNV-1a, for names too long to be a file name; they are the runtime's own, nobody forges them.
std::string LongNameHash(std::string_view text) {
  unsigned __int128 hash = (static_cast<unsigned __int128>(0x6c62272e07bb0142) << 64) | 0x62b821756295c58d;
  const unsigned __int128 prime = (static_cast<unsigned __int128>(1) << 88) | 0x13b;
  for (unsigned char c : text) hash = (hash ^ c) * prime;
  return fmt::format("{:016x}{:016x}", static_cast<uint64_t>(hash >> 64), static_cast<uint64_t>(hash));
}

}  // namespace

bool IsWireVariable(std::string_view name) {
  if (name.substr(0, 4) == "CNI_") return true;
  return name == "PATH" || name == "TRACEPARENT" || name == "TRACESTATE" || name == "traceparent" ||
         name == "tracestate";
}

absl::StatusOr<std::string> EncodeRequest(const WireRequest& request) {
  try {
    return Json{{"version", kWireVersion}, {"environment", request.environment}, {"stdin", request.stdin_text}}.dump();
  } catch (const Json::exception& e) {
    return MakeError(kInvalidEnvironment, "an environment variable is not UTF-8", e.what());
  }
}

absl::StatusOr<WireRequest> DecodeRequest(const std::string& text) {
  HK_ASSIGN_OR_RETURN(Json json, ParseObject(text));
  auto version = json.find("version"), environment = json.find("environment"), input = json.find("stdin");
  if (version == json.end() || *version != kWireVersion) {
    return absl::InvalidArgumentError(fmt::format("request has not version {}", kWireVersion));
  }
  if (environment == json.end() || !environment->is_object() || input == json.end() || !input->is_string()) {
    return absl::InvalidArgumentError("request lacks 'environment' (an object) or 'stdin' (a string)");
  }
  WireRequest request{.stdin_text = input->get<std::string>()};
  for (const auto& [key, value] : environment->items()) {
    if (!value.is_string()) return absl::InvalidArgumentError(fmt::format("environment['{}'] is not a string", key));
    request.environment[key] = value.get<std::string>();
  }
  return request;
}

std::string EncodeReply(const WireReply& reply) {
  return Json{{"exit", reply.exit_code}, {"stdout", reply.stdout_text}}.dump(-1, ' ', false,
                                                                             Json::error_handler_t::replace);
}

absl::StatusOr<WireReply> DecodeReply(const std::string& text) {
  HK_ASSIGN_OR_RETURN(Json json, ParseObject(text));
  auto exit_code = json.find("exit"), output = json.find("stdout");
  if (exit_code == json.end() || output == json.end() || !output->is_string()) {
    return absl::InvalidArgumentError("reply lacks 'exit' (a number) or 'stdout' (a string)");
  }
  HK_ASSIGN_OR_RETURN(int exit, Whole<int>(*exit_code, "exit"));
  return WireReply{exit, output->get<std::string>()};
}

absl::Status WriteFrame(int fd, std::string_view text, Deadline deadline) {
  if (text.size() > kMaxFrameBytes) {
    return absl::InvalidArgumentError(fmt::format("frame of {} bytes; at most {}", text.size(), kMaxFrameBytes));
  }
  std::string frame(4, '\0');
  for (int i = 0; i < 4; ++i) frame[i] = static_cast<char>(text.size() >> (8 * i));
  frame.append(text);
  return Send(fd, frame.data(), frame.size(), deadline);
}

absl::StatusOr<std::string> ReadFrame(int fd, Deadline deadline) {
  unsigned char head[4];
  HK_RETURN_IF_ERROR(Receive(fd, reinterpret_cast<char*>(head), sizeof head, deadline));
  size_t size = head[0] | head[1] << 8 | head[2] << 16 | static_cast<size_t>(head[3]) << 24;
  if (size > kMaxFrameBytes) {
    return absl::InvalidArgumentError(fmt::format("frame of {} bytes; at most {}", size, kMaxFrameBytes));
  }
  // Grown as bytes arrive, so that a length alone cannot make us allocate.
  std::string text;
  while (text.size() < size) {
    size_t had = text.size(), step = std::min<size_t>(size - had, 1u << 16);
    text.resize(had + step);
    HK_RETURN_IF_ERROR(Receive(fd, text.data() + had, step, deadline));
  }
  return text;
}

std::string QueueFileName(const std::string& network, const std::string& container_id, const std::string& ifname) {
  // Neither of the first two can hold '@'.
  std::string name = fmt::format("{}@{}@{}", network, container_id, ifname);
  return (name.size() <= 200 ? name : "@" + LongNameHash(name)) + std::string(kQueueSuffix);
}

}  // namespace heterok8s::cni
