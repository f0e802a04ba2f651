#include "node-agent/cri/session_status.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <utility>

#include "node-agent/cri/stream_http.h"

namespace heterok8s::cri {
namespace {

// Longer ones are not held back. Runtimes copy their output in pieces of 32 KiB.
constexpr size_t kMostHeld = 256 << 10;
constexpr std::string_view kSwitching = "HTTP/1.1 101";
constexpr std::string_view kSpdy = "spdy/3.1";
constexpr char kErrorChannel = 3;  // WebSocket: the first byte of a message

// The value of a field in the head of an HTTP message; empty without it.
std::string FieldOf(std::string_view head, std::string_view name) {
  auto same = [](char a, char b) { return std::tolower(static_cast<unsigned char>(a)) == b; };
  while (!head.empty()) {
    const size_t end = std::min(head.find("\r\n"), head.size());
    const std::string_view line = head.substr(0, end);
    head.remove_prefix(std::min(end + 2, head.size()));
    if (line.size() <= name.size() || line[name.size()] != ':') continue;
    if (!std::equal(name.begin(), name.end(), line.begin(), [&](char n, char is) { return same(is, n); })) continue;
    const size_t from = line.find_first_not_of(" \t", name.size() + 1);
    if (from == std::string_view::npos) return "";
    return std::string(line.substr(from, line.find_last_not_of(" \t") - from + 1));
  }
  return "";
}

// What a head asks for, or agrees to, in lower case.
std::string UpgradeOf(std::string_view head) {
  std::string upgrade = FieldOf(head, "upgrade");
  std::transform(upgrade.begin(), upgrade.end(), upgrade.begin(), [](unsigned char c) { return std::tolower(c); });
  return upgrade;
}

bool HasResult(const std::string& protocol) {
  return protocol == "v4.channel.k8s.io" || protocol == "v5.channel.k8s.io";
}

// As the kubelet's streaming library writes one (apierrors.NewInternalError).
std::string Failure(const std::string& why) {
  return nlohmann::json{{"metadata", nlohmann::json::object()},
                        {"status", "Failure"},
                        {"reason", "InternalError"},
                        {"message", why},
                        {"code", 500}}
      .dump();
}

}  // namespace

SessionStatus::SessionStatus(std::string_view request) {
  constexpr std::string_view kEnd = "\r\n\r\n";
  const size_t end = request.find(kEnd);
  if (end == std::string_view::npos || UpgradeOf(request.substr(0, end)) != kSpdy) return;
  client_ = Client::kWatched;
  headers_ = std::make_unique<SpdyHeaders>();
  FromClient(request.substr(end + kEnd.size()));
}

std::string SessionStatus::Unwatched() {
  protocol_ = Protocol::kOpaque;
  return std::exchange(held_, {});
}

SessionStatus::Protocol SessionStatus::ProtocolOf(std::string_view head) {
  const std::string upgrade = UpgradeOf(head);
  if (upgrade == kSpdy && HasResult(FieldOf(head, "x-stream-protocol-version"))) return Protocol::kSpdy;
  if (upgrade == "websocket" && HasResult(FieldOf(head, "sec-websocket-protocol"))) return Protocol::kWebSocket;
  return Protocol::kOpaque;
}

size_t SessionStatus::TakeSpdyFrame(std::string_view bytes) {
  if (bytes.size() < kSpdyHead) return 0;
  const SpdyFrame frame = ReadSpdyHead(bytes);
  const size_t size = kSpdyHead + frame.length;
  if (bytes.size() < size) return 0;
  const uint32_t error_stream = error_stream_;
  if (error_stream == 0) return size;
  uint32_t stream = frame.stream;
  bool ends = (frame.flags & kSpdyFin) != 0;
  if (frame.control) {
    const bool of_stream = frame.type == kSpdySynReply || frame.type == kSpdyRstStream || frame.type == kSpdyHeaders;
    if (!of_stream || frame.length < 4) return size;
    stream = SpdyNumber(bytes.substr(kSpdyHead)) & 0x7fffffff;
    ends = ends || frame.type == kSpdyRstStream;
  }
  if (stream == error_stream && (ends || (!frame.control && frame.length > 0))) had_result_ = true;
  return size;
}

// RFC 6455, 5.2. A server does not mask.
size_t SessionStatus::TakeWebSocketFrame(std::string_view bytes) {
  auto byte = [bytes](size_t at) { return static_cast<unsigned char>(bytes[at]); };
  if (bytes.size() < 2) return 0;
  const bool last = (byte(0) & 0x80) != 0, masked = (byte(1) & 0x80) != 0;
  const int opcode = byte(0) & 0x0f;
  uint64_t length = byte(1) & 0x7f;
  const size_t more = length == 126 ? 2 : length == 127 ? 8 : 0;
  const size_t head = 2 + more + (masked ? 4 : 0);
  if (bytes.size() < head) return 0;
  if (more > 0) length = 0;
  for (size_t i = 0; i < more; ++i) length = length << 8 | byte(2 + i);
  if (length > kMostHeld || bytes.size() < head + length) return 0;
  const size_t size = head + length;
  if (opcode == 8) had_result_ = true;  // it closes by itself
  if (opcode >= 8) return size;         // between the frames of a message there may be such
  if (opcode != 0 && !masked && length > 1 && bytes[head] == kErrorChannel) had_result_ = true;
  in_message_ = !last;
  return size;
}

std::string SessionStatus::FromRuntime(std::string_view bytes) {
  held_ += bytes;
  std::string passed;
  if (protocol_ == Protocol::kUnknown) {
    const size_t seen = std::min(held_.size(), kSwitching.size());
    if (held_.compare(0, seen, kSwitching, 0, seen) != 0) return Unwatched();
    const size_t end = held_.find("\r\n\r\n");
    if (end == std::string::npos) return held_.size() > kMaxStreamHead ? Unwatched() : "";
    passed = held_.substr(0, end + 4);
    held_.erase(0, end + 4);
    protocol_ = ProtocolOf(passed);
  }
  if (protocol_ == Protocol::kOpaque) return passed + std::exchange(held_, {});
  // Frames may be of some bytes each, so what they take is taken out once for all of them.
  size_t taken = 0;
  for (size_t size = 1; size > 0; taken += size) {
    const std::string_view rest = std::string_view(held_).substr(taken);
    size = protocol_ == Protocol::kSpdy ? TakeSpdyFrame(rest) : TakeWebSocketFrame(rest);
  }
  passed.append(held_, 0, taken);
  held_.erase(0, taken);
  return held_.size() > kMostHeld ? passed + Unwatched() : passed;
}

std::string SessionStatus::Ending(const std::string& why) {
  const Protocol protocol = std::exchange(protocol_, Protocol::kOpaque);
  if (protocol == Protocol::kUnknown) return std::exchange(held_, {});
  if (protocol == Protocol::kOpaque || had_result_ || in_message_) return "";
  const std::string failure = Failure(why);
  if (protocol == Protocol::kSpdy) return error_stream_ == 0 ? "" : SpdyData(error_stream_, kSpdyFin, failure);
  // One binary message and a close frame of the code 1011: the server met something unexpected.
  const size_t length = failure.size() + 1;
  std::string frame = "\x82";
  if (length < 126) {
    frame += static_cast<char>(length);
  } else {
    frame += {'\x7e', static_cast<char>(length >> 8), static_cast<char>(length)};
  }
  return frame + kErrorChannel + failure + "\x88\x02\x03\xf3";
}

void SessionStatus::FromClient(std::string_view bytes) {
  if (client_ == Client::kDone) return;
  const size_t skipped = std::min<uint64_t>(client_skip_, bytes.size());
  client_skip_ -= skipped;
  client_held_ += bytes.substr(skipped);
  ReadClient();
  if (client_ != Client::kDone) return;
  client_held_.clear();
  headers_.reset();
}

// Looks for the frame that opens the error stream; leaves the beginning of a frame in client_held_.
void SessionStatus::ReadClient() {
  size_t taken = 0;
  for (size_t size = 1; size > 0 && client_ == Client::kWatched; taken += size)
    size = TakeClientFrame(std::string_view(client_held_).substr(taken));
  client_held_.erase(0, taken);
}

size_t SessionStatus::TakeClientFrame(std::string_view bytes) {
  if (bytes.size() < kSpdyHead) return 0;
  const SpdyFrame frame = ReadSpdyHead(bytes);
  const size_t size = kSpdyHead + frame.length;
  if (!frame.control || frame.type != kSpdySynStream) {
    if (frame.control && frame.type == kSpdyHeaders) client_ = Client::kDone;  // of the same compression
    const size_t here = std::min(size, bytes.size());
    client_skip_ = size - here;
    return here;
  }
  constexpr size_t kBlock = kSpdyHead + 10;  // after the stream, the one it belongs to and its priority
  if (size > kMaxStreamHead || size < kBlock) client_ = Client::kDone;
  if (client_ == Client::kDone || bytes.size() < size) return 0;
  const uint32_t stream = SpdyNumber(bytes.substr(kSpdyHead)) & 0x7fffffff;
  auto fields = headers_->Read(bytes.substr(kBlock, size - kBlock));
  const bool found = fields.ok() && fields->contains("streamtype") && fields->at("streamtype") == "error";
  if (found) error_stream_ = stream;
  if (found || !fields.ok()) client_ = Client::kDone;
  return size;
}

}  // namespace heterok8s::cri
