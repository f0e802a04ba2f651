#include "node-agent/cri/stream_http.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <charconv>

namespace heterok8s::cri {
namespace {

bool Printable(std::string_view text) {
  for (unsigned char c : text) {
    if (c <= ' ' || c == 0x7f) return false;
  }
  return true;
}

bool OnLoopback(const std::string& address) {
  in_addr v4 = {};
  if (inet_pton(AF_INET, address.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6 = {};
  return inet_pton(AF_INET6, address.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

}  // namespace

absl::StatusOr<StreamRequest> ParseStreamRequest(std::string_view head) {
  auto bad = [](const char* why) { return absl::InvalidArgumentError(fmt::format("no streaming request, {}", why)); };
  size_t end = head.find("\r\n");
  if (end == std::string_view::npos) return bad("no request line");
  std::string_view line = head.substr(0, end);
  size_t first = line.find(' '), last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) return bad("no request line");
  StreamRequest request;
  request.method = line.substr(0, first);
  if (request.method != "GET" && request.method != "POST") return bad("neither GET nor POST");
  std::string_view target = line.substr(first + 1, last - first - 1), version = line.substr(last + 1);
  if (version != "HTTP/1.1") return bad("not HTTP/1.1");
  if (target.empty() || target[0] != '/' || !Printable(target)) return bad("no path");
  size_t question = target.find('?');
  request.path = target.substr(0, question);
  if (question != std::string_view::npos) request.query = target.substr(question);
  request.rest = head.substr(last + 1);
  return request;
}

std::string ForwardedHead(const StreamRequest& request, const std::string& path) {
  return fmt::format("{} {}{} {}", request.method, path, request.query, request.rest);
}

std::string PlainResponse(const std::string& status, const std::string& text) {
  return fmt::format(
      "HTTP/1.1 {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
      status, text.size(), text);
}

absl::StatusOr<RuntimeUrl> ParseRuntimeUrl(const std::string& url) {
  auto bad = [&](const char* why) { return absl::InvalidArgumentError(fmt::format("streaming URL: {}", why)); };
  constexpr std::string_view kScheme = "http://";
  if (url.rfind(kScheme, 0) != 0) return bad("the runtime's streaming server does not speak plain HTTP");
  std::string_view left = std::string_view(url).substr(kScheme.size());
  size_t slash = left.find('/');
  if (slash == std::string_view::npos || !Printable(left)) return bad("no path");
  std::string_view host = left.substr(0, slash);
  RuntimeUrl parsed;
  parsed.path = left.substr(slash);
  size_t colon = host.rfind(':');
  if (colon == std::string_view::npos) return bad("no port");
  std::string_view port = host.substr(colon + 1);
  auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), parsed.port);
  if (error != std::errc() || end != port.data() + port.size() || parsed.port == 0) return bad("no port");
  host = host.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  parsed.address = host == "localhost" ? "127.0.0.1" : std::string(host);
  if (!OnLoopback(parsed.address)) return bad("the runtime's streaming server is not on loopback");
  return parsed;
}

}  // namespace heterok8s::cri
