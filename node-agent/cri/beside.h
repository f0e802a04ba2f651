// Work that runs beside the caller's own; after it, on a machine that has no thread left.
//
// Threading: as std::async. Ownership: what `work` refers to must outlive the future, whose destruction waits for a
// thread. Errors: none; without a thread the work is done when its result is asked for.
//
//   auto dpu = Beside([&] { return Ask(dpu_); });
//   auto host = Ask(host_);
//   Merge(host, dpu.get());
#pragma once

#include <future>
#include <system_error>

namespace heterok8s::cri {

template <typename Work>
auto Beside(const Work& work) -> std::future<decltype(work())> {
  try {
    return std::async(std::launch::async, work);
  } catch (const std::system_error&) {  // the kernel's EAGAIN; uncaught it would end the program
    return std::async(std::launch::deferred, work);
  }
}

}  // namespace heterok8s::cri
