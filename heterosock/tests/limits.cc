#include "heterosock/tests/limits.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr const char* kUnread =
    "bytes unread in shared memory follow over TCP only when the peer next calls the library, and not after its FIN";

constexpr struct {
  std::string_view name;
  const char* why;
} kLimits[] = {
    {"close: by another thread leaves a blocked reader reading",
     "the reader is told EBADF: its channel is unmapped with the last close"},
    {"epoll: a duplicate keeps the item of a closed descriptor",
     "of two items of one socket, under two descriptors, one is reported"},
    {"files: read into read-only memory, half of it", "the copy faults where the kernel would answer EFAULT"},
    {"pass: SCM_RIGHTS to another process in the middle of a stream", kUnread},
    {"process: both ends exec", kUnread},
    {"process: exec keeps the connection", kUnread},
    {"process: exec of an image without the library keeps the connection", kUnread},
    {"process: posix_spawn of cat on the connection", kUnread},
    {"process: posix_spawn of cat without the library", kUnread},
    {"process: vfork and exec of cat on the connection", kUnread},
    {"process: kill -9 of the child leaves the parent's connection", "the peer sees an end instead of ECONNRESET"},
    {"close: kill -9 with bytes unread",
     "the kernel does not know of unread bytes in shared memory: the peer sees an end"},
    {"close: exit with bytes unread resets the peer", "_exit tells nobody: the peer sees an end"},
    {"select: sets and counts", "hidden descriptors enlarge the kernel's table, so a number never opened says EBADF"},
};

}  // namespace

const char* LimitOf(std::string_view case_name) {
  for (const auto& [name, why] : kLimits) {
    if (name == case_name) return why;
  }
  return nullptr;
}

}  // namespace heterok8s::heterosock::behaviour
