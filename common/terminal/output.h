// What our command lines show: tables for people, JSON for programs, errors that say what to do next.
//
// Purpose: one place decides about colour (only on a terminal, never with NO_COLOR), alignment, and where things go:
// answers to stdout, progress and errors to stderr.
// Threading: Output belongs to the main thread; Progress has a thread of its own that only writes to stderr.
// Errors: none of their own.
//
//   Table table({"POD", "MODE"});
//   table.Row({"default/web", {"split", Style::kGood}});
//   output.Print(table);
//   return WithHint(absl::NotFoundError("no Pod 'web'"), "`heteroctl ps` lists the Pods");
#pragma once

#include <chrono>
#include <condition_variable>
#include <initializer_list>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "common/status/status.h"

namespace heterok8s::terminal {

enum class Style { kPlain, kGood, kWarning, kBad, kDim, kStrong };

// `text` with the terminal's colour for `style`; unchanged when `colour` is false.
std::string Paint(const std::string& text, Style style, bool colour);

struct Cell {
  std::string text;
  Style style = Style::kPlain;
  Cell(std::string text_in, Style style_in = Style::kPlain) : text(std::move(text_in)), style(style_in) {}
  Cell(const char* text_in, Style style_in = Style::kPlain) : text(text_in), style(style_in) {}
};

// Columns as wide as their widest cell (in characters, not bytes); the last one is not padded. On a terminal that is
// narrower, the widest columns give way and their cells go on in the next line.
class Table {
 public:
  explicit Table(std::vector<std::string> headers) : headers_(std::move(headers)) {}
  void Row(std::vector<Cell> cells) { rows_.push_back(std::move(cells)); }
  bool empty() const { return rows_.empty(); }
  // `columns`: of the terminal, in characters; 0: as wide as it gets.
  std::string Render(bool colour, size_t columns = 0) const;

 private:
  std::vector<std::string> headers_;
  std::vector<std::vector<Cell>> rows_;
};

enum class Format { kText, kJson };

class Output {
 public:
  Format format = Format::kText;
  bool json() const { return format == Format::kJson; }

  void Print(const Table& table) const;
  void Print(const nlohmann::json& value) const;  // indented, one document
  void Line(const std::string& text, Style style = Style::kPlain) const;
  // To stderr: "error: …" and, when the status has a hint, "  next: …"; with -o json one object instead.
  void Error(const absl::Status& status) const;
  // To stderr, for what is odd but does not stop the command; with -o json one object per line.
  void Warn(const std::string& text) const;
};

// True when `fd` is a terminal that shows colour and the user did not say NO_COLOR (no-color.org).
bool ColourWanted(int fd);

// What the person should do next; shown below the error.
absl::Status WithHint(absl::Status status, const std::string& hint);
std::string HintOf(const absl::Status& status);

// Shows on stderr what is going on, once it takes longer than two seconds: a live line on a terminal, else one line.
// Silent with -o json: stderr is then a program's to read.
class Progress {
 public:
  Progress(const Output& output, std::string what);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void Update(std::string what);

 private:
  void Run();

  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string what_;
  bool done_;
  std::thread thread_;  // last: it uses all of the above
};

// "4 s", "3 min", "2 h", "5 d": for columns of age.
std::string HumanAge(std::chrono::milliseconds age);
// "512 B", "1.5 MiB".
std::string HumanBytes(uint64_t bytes);

}  // namespace heterok8s::terminal
