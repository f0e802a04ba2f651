// libbpf's own messages, where they are wanted: debug ones in our log, the last warnings in the Status.
//
// Threading: any thread; warnings are collected per thread.
//
//   LogCapture log;
//   if (int error = bpf_object__load(object)) return log.Error(-error, "load 'ports'");
#pragma once

#include <string>

#include "common/status/status.h"

namespace heterok8s::bpf {

// Collects what libbpf warns of on this thread while it lives. Captures do not nest.
class LogCapture {
 public:
  LogCapture();
  ~LogCapture();
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;

  // ErrnoToStatus(error_number, context) with the tail of the warnings, which holds the verifier's reason.
  absl::Status Error(int error_number, const std::string& context) const;
};

}  // namespace heterok8s::bpf
