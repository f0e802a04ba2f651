#include "heterosock/lib/trace.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "heterosock/lib/hidden_fd.h"
#include "heterosock/lib/process.h"
#include "heterosock/ofd/thread.h"

namespace heterok8s::heterosock {

constinit int trace_fd = -1;

namespace {

// A write beyond RLIMIT_FSIZE is SIGXFSZ (setrlimit(2)), which would end the program: sshd sets it to 0 before its
// sandbox.
bool MayGrow(int length) {
  rlimit limit{};
  if (Syscall(SYS_prlimit64, 0, RLIMIT_FSIZE, 0, reinterpret_cast<long>(&limit)) != 0) return false;
  if (limit.rlim_cur == RLIM_INFINITY) return true;
  struct stat file {};
  if (Syscall(SYS_fstat, trace_fd, reinterpret_cast<long>(&file)) != 0) return false;
  return !S_ISREG(file.st_mode) || static_cast<rlim_t>(file.st_size) + static_cast<rlim_t>(length) <= limit.rlim_cur;
}

}  // namespace

void StartTrace() {
  // A user must not choose what a program with more rights than his writes to: /etc/ld.so.preload reaches these too.
  const char* where = secure_getenv("HETEROSOCK_TRACE");
  if (where == nullptr || where[0] == '\0' || (where[0] == '0' && where[1] == '\0')) return;
  const bool to_stderr = where[0] == '1' && where[1] == '\0';
  const long fd = to_stderr ? Syscall(SYS_dup, 2)
                            : Syscall(SYS_openat, AT_FDCWD, reinterpret_cast<long>(where),
                                      O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (fd >= 0) trace_fd = HideFd(static_cast<int>(fd));
}

void WriteTrace(const char* format, ...) {
  if (process.restricted.load()) return;  // the program's filter knows nothing of these calls
  const int saved = errno;
  char line[512];
  int length = snprintf(line, sizeof line, "heterosock[%u/%u] ", process.pid, ThreadId());
  va_list arguments;
  va_start(arguments, format);
  const int more = vsnprintf(line + length, sizeof line - static_cast<size_t>(length) - 1, format, arguments);
  va_end(arguments);
  if (more > 0)
    length += more < static_cast<int>(sizeof line) - length - 1 ? more : static_cast<int>(sizeof line) - length - 2;
  line[length++] = '\n';
  if (MayGrow(length)) Syscall(SYS_write, trace_fd, reinterpret_cast<long>(line), length);
  errno = saved;
}

}  // namespace heterok8s::heterosock
