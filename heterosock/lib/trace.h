// What HETEROSOCK_TRACE prints: one line per event of a connection's life, never per byte. Off unless asked for.
// HETEROSOCK_TRACE=1 writes to the standard error of the start of the program, =PATH appends to a file.
// A program that has given up system calls, or the growth of files, writes no line from then on.
// Threading: any; a line is one write. Allocates nothing; errno is kept.
//
//   Trace("fd %d: moved to shared memory", fd);
#pragma once

namespace heterok8s::heterosock {

extern constinit int trace_fd;  // -1: off

void StartTrace();
[[gnu::cold, gnu::format(printf, 1, 2)]] void WriteTrace(const char* format, ...);

template <typename... Arguments>
inline void Trace(const char* format, Arguments... arguments) {
  if (trace_fd >= 0) [[unlikely]]
    WriteTrace(format, arguments...);
}

}  // namespace heterok8s::heterosock
