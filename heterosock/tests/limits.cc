#include "heterosock/tests/limits.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr struct {
  std::string_view name;
  const char* why;
} kLimits[] = {
    {"close: by another thread leaves a blocked reader reading",
     "the reader is told EBADF: its channel is unmapped with the last close"},
    {"close: SHUT_RDWR, and what had come before is read after the other end closed",
     "behind the last byte it is told of a reset: what the other end brings back in front of its end is refused"},
    {"epoll: a duplicate keeps the item of a closed descriptor",
     "of two items of one socket, under two descriptors, one is reported"},
    {"files: read into read-only memory, half of it", "the copy faults where the kernel would answer EFAULT"},
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
