// This process's own figures: open descriptors and memory, for metrics and for Admin.Status.
//
// Threading: any. Ownership: values. Errors: zeros when /proc cannot be read; a figure is no reason to fail.
//
//   samples.Gauge("heterocri_open_files", "Open descriptors", static_cast<double>(ReadProcessFigures().open_files));
#pragma once

#include <cstdint>

namespace heterok8s::metrics {

struct ProcessFigures {
  uint64_t open_files = 0;
  uint64_t resident_bytes = 0;
  uint64_t heap_bytes = 0;  // in use; see common/sys/heap.h
};
ProcessFigures ReadProcessFigures();

}  // namespace heterok8s::metrics
