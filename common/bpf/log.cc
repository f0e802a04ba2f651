#include "common/bpf/log.h"

#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <mutex>
#include <string_view>

namespace heterok8s::bpf {
namespace {

// The verifier ends its log with the reason; the rest is the program's text.
constexpr size_t kTailBytes = 800;

thread_local std::string* captured = nullptr;

int Print(libbpf_print_level level, const char* format, va_list arguments) {
  char line[4096];
  int length = vsnprintf(line, sizeof line, format, arguments);
  if (length <= 0) return 0;
  std::string_view text(line, std::min<size_t>(length, sizeof line - 1));
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  if (level == LIBBPF_WARN && captured != nullptr) {
    captured->append(text).append("\n");
    if (captured->size() > 4 * kTailBytes) captured->erase(0, captured->size() - 2 * kTailBytes);
  }
  // libbpf's debug lines, more than a thousand for one object, are for those who debug libbpf.
  spdlog::log(level == LIBBPF_DEBUG ? spdlog::level::trace : spdlog::level::debug, "{}", text);
  return 0;
}

}  // namespace

LogCapture::LogCapture() {
  static std::once_flag once;
  std::call_once(once, [] { libbpf_set_print(Print); });
  captured = new std::string();
}

LogCapture::~LogCapture() {
  delete captured;
  captured = nullptr;
}

absl::Status LogCapture::Error(int error_number, const std::string& context) const {
  std::string tail = captured->size() > kTailBytes ? captured->substr(captured->size() - kTailBytes) : *captured;
  while (!tail.empty() && tail.back() == '\n') tail.pop_back();
  return ErrnoToStatus(error_number, tail.empty() ? context : fmt::format("{} ({})", context, tail));
}

}  // namespace heterok8s::bpf
