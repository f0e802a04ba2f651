#include "common/terminal/output.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>

namespace heterok8s::terminal {
namespace {

constexpr std::chrono::seconds kQuietFor{2};
constexpr char kHintPayload[] = "heterok8s.io/hint";

const char* Code(Style style) {
  switch (style) {
    case Style::kGood:
      return "\033[32m";
    case Style::kWarning:
      return "\033[33m";
    case Style::kBad:
      return "\033[31m";
    case Style::kDim:
      return "\033[2m";
    case Style::kStrong:
      return "\033[1m";
    case Style::kPlain:
      break;
  }
  return "";
}

// Characters on the terminal: bytes that do not continue a UTF-8 sequence.
size_t Width(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

constexpr size_t kGap = 2, kNarrowest = 12;  // between columns; what a column keeps

// The widest columns give way until all fit into `columns`, or all are narrow.
void Narrow(std::vector<size_t>& widths, size_t columns) {
  size_t total = std::accumulate(widths.begin(), widths.end(), kGap * widths.size()) - kGap;
  while (!widths.empty() && total > columns) {
    auto widest = std::max_element(widths.begin(), widths.end());
    if (*widest <= kNarrowest) return;
    --*widest, --total;
  }
}

// `text` in lines of at most `width` characters, at spaces where there are any; at least one line.
std::vector<std::string> Wrap(std::string text, size_t width) {
  std::vector<std::string> lines;
  while (Width(text) > width) {
    size_t end = 0, space = 0, characters = 0;  // end: of as many bytes as fit
    for (size_t i = 0; i <= text.size(); ++i) {
      if (i < text.size() && (static_cast<unsigned char>(text[i]) & 0xC0) == 0x80) continue;
      end = i;
      if (text[i] == ' ') space = i;
      if (++characters > width) break;
    }
    const bool at_space = space > 0;
    lines.push_back(text.substr(0, at_space ? space : end));
    text.erase(0, at_space ? space + 1 : end);
  }
  lines.push_back(std::move(text));
  return lines;
}

size_t TerminalColumns(int fd) {
  winsize size{};
  return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

std::string Paint(const std::string& text, Style style, bool colour) {
  if (!colour || style == Style::kPlain || text.empty()) return text;
  return Code(style) + text + "\033[0m";
}

bool ColourWanted(int fd) {
  const char* no_color = std::getenv("NO_COLOR");
  if (no_color != nullptr && *no_color != '\0') return false;
  const char* term = std::getenv("TERM");
  if (term == nullptr || std::string_view(term) == "dumb") return false;
  return isatty(fd) == 1;
}

std::string Table::Render(bool colour, size_t columns) const {
  std::vector<size_t> widths;
  for (const std::string& header : headers_) widths.push_back(Width(header));
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size() && i < widths.size(); ++i) widths[i] = std::max(widths[i], Width(row[i].text));
  }
  if (columns > 0) Narrow(widths, columns);
  std::string text;
  auto append = [&](size_t column, const std::string& cell, Style style, bool last) {
    text += Paint(cell, style, colour);
    if (!last) text.append(widths[column] - Width(cell) + 2, ' ');
  };
  auto append_row = [&](const std::vector<Cell>& row) {
    std::vector<std::vector<std::string>> cells;  // by column, then line
    size_t lines = 1;
    for (size_t i = 0; i < row.size() && i < widths.size(); ++i) {
      cells.push_back(Wrap(row[i].text, widths[i]));
      lines = std::max(lines, cells.back().size());
    }
    for (size_t line = 0; line < lines; ++line) {
      size_t last = cells.size();  // behind the last cell that reaches this line
      while (line > 0 && last > 0 && cells[last - 1].size() <= line) --last;
      for (size_t i = 0; i < last; ++i)
        append(i, line < cells[i].size() ? cells[i][line] : "", row[i].style, i + 1 == last);
      text += '\n';
    }
  };
  if (std::any_of(headers_.begin(), headers_.end(), [](const std::string& h) { return !h.empty(); })) {
    std::vector<Cell> row;
    for (const std::string& header : headers_) row.push_back({header, Style::kStrong});
    append_row(row);
  }
  for (const auto& row : rows_) append_row(row);
  return text;
}

void Output::Print(const Table& table) const {
  const size_t columns = isatty(STDOUT_FILENO) == 1 ? TerminalColumns(STDOUT_FILENO) : 0;
  fmt::print(stdout, "{}", table.Render(ColourWanted(STDOUT_FILENO), columns));
  fflush(stdout);
}

void Output::Print(const nlohmann::json& value) const {
  // Text from containers may be no UTF-8; replacing is better than failing.
  fmt::print(stdout, "{}\n", value.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  fflush(stdout);
}

void Output::Line(const std::string& text, Style style) const {
  fmt::print(stdout, "{}\n", Paint(text, style, ColourWanted(STDOUT_FILENO)));
  fflush(stdout);
}

void Output::Error(const absl::Status& status) const {
  const std::string hint = HintOf(status);
  if (json()) {
    nlohmann::json error = {{"code", absl::StatusCodeToString(status.code())}, {"message", Message(status)}};
    if (!hint.empty()) error["next"] = hint;
    fmt::print(stderr, "{}\n",
               nlohmann::json{{"error", error}}.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
    return;
  }
  const bool colour = ColourWanted(STDERR_FILENO);
  fmt::print(stderr, "{} {}\n", Paint("error:", Style::kBad, colour), Message(status));
  if (!hint.empty()) fmt::print(stderr, "{} {}\n", Paint(" next:", Style::kStrong, colour), hint);
}

void Output::Warn(const std::string& text) const {
  if (json()) {
    fmt::print(stderr, "{}\n",
               nlohmann::json{{"warning", text}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    return;
  }
  fmt::print(stderr, "{} {}\n", Paint("warning:", Style::kWarning, ColourWanted(STDERR_FILENO)), text);
}

absl::Status WithHint(absl::Status status, const std::string& hint) {
  if (!status.ok()) status.SetPayload(kHintPayload, absl::Cord(hint));
  return status;
}

std::string HintOf(const absl::Status& status) {
  auto payload = status.GetPayload(kHintPayload);
  return payload.has_value() ? std::string(*payload) : "";
}

// A silent one is done from the start.
Progress::Progress(const Output& output, std::string what)
    : what_(std::move(what)), done_(output.json()), thread_([this] { Run(); }) {}

Progress::~Progress() {
  {
    std::lock_guard lock(mutex_);
    done_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Progress::Update(std::string what) {
  {
    std::lock_guard lock(mutex_);
    what_ = std::move(what);
  }
  changed_.notify_all();
}

void Progress::Run() {
  const bool live = isatty(STDERR_FILENO) == 1;
  std::unique_lock lock(mutex_);
  if (changed_.wait_until(lock, start_ + kQuietFor, [this] { return done_; })) return;
  std::string shown;
  while (!done_) {
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - start_);
    if (live) {
      std::string line = fmt::format("{} … {} s", what_, seconds.count());
      const size_t columns = TerminalColumns(STDERR_FILENO);
      if (line.size() >= columns) line.resize(columns - 1);
      fmt::print(stderr, "\r\033[K{}", line);
      fflush(stderr);
    } else if (shown != what_) {
      fmt::print(stderr, "{} …\n", what_);
      shown = what_;
    }
    changed_.wait_for(lock, std::chrono::milliseconds(500));
  }
  if (live) {
    fmt::print(stderr, "\r\033[K");
    fflush(stderr);
  }
}

std::string HumanAge(std::chrono::milliseconds age) {
  const int64_t seconds = age.count() / 1000;
  if (seconds < 0) return "-";
  if (seconds == 0) return fmt::format("{} ms", age.count());
  if (seconds < 120) return fmt::format("{} s", seconds);
  if (seconds < 120 * 60) return fmt::format("{} min", seconds / 60);
  if (seconds < 48 * 3600) return fmt::format("{} h", seconds / 3600);
  return fmt::format("{} d", seconds / 86400);
}

std::string HumanBytes(uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

}  // namespace heterok8s::terminal
