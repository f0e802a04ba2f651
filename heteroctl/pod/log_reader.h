// Container logs in CRI format: "<RFC 3339 time> <stdout|stderr> <P|F> <text>".
//
// Purpose: parse, tail and follow the file that the runtime (or heterocri, for a container on the DPU) writes.
// Threading: one thread. Ownership: the file is open during the call. Errors: kNotFound when the file is not there; a
// line that is not CRI format is kept whole.
//
//   HK_RETURN_IF_ERROR(ReadLog(path, {.tail = 20}, [](const LogLine& line) { fmt::print("{}\n", line.text); }));
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status/status.h"

namespace heterok8s::ctl {

struct LogLine {
  std::string time, stream, text;
  bool partial = false;  // the runtime cut a long line here; the next one continues it
};

LogLine ParseLogLine(std::string_view line);

struct LogOptions {
  int tail = -1;  // lines; -1: all
  bool follow = false;
  std::function<bool()> still_running;  // asked when following and nothing comes; false ends the call
};
absl::Status ReadLog(const std::string& path, const LogOptions& options,
                     const std::function<void(const LogLine&)>& sink);

// The last `count` lines' texts; empty when there is no file.
std::vector<std::string> LastLines(const std::string& path, int count);

}  // namespace heterok8s::ctl
