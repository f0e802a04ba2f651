// A log line is written by a runtime, but its text by the container. See tools/fuzz.
#include <cstdint>
#include <cstdlib>

#include "heteroctl/pod/log_reader.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view line(reinterpret_cast<const char*>(data), size);
  const heterok8s::ctl::LogLine parsed = heterok8s::ctl::ParseLogLine(line);
  // What is shown is the end of the line: nothing is made up and nothing after the header is lost.
  if (parsed.text.size() > size || line.substr(size - parsed.text.size()) != parsed.text) abort();
  return 0;
}
