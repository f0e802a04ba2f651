// Programs on kernels that lack something, or whose starter forbids it, made of this one by seccomp: what they see is
// what plain libc shows there, and their connections move without it, or stay on TCP and the trace says why. The filter
// is there before the program starts, and not the agent's (agent/lacking_test is about that one).
//
// Nothing is said of memfd_create and pidfd_open, which the library never calls and the runner of the cases does.
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "heterosock/tests/agent.h"
#include "heterosock/tests/case.h"
#include "heterosock/tests/one_end.h"
#include "heterosock/tests/outcome.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr uint32_t kWhatever = ~0u;
constexpr int kPlainRuns = 4, kRuns = 3;  // as in behaviour_test: Linux may allow several outcomes

struct Lack {
  const char* what;
  uint32_t call;
  uint32_t argument, value;  // which of its arguments is what; kWhatever: all calls
  uint32_t error;
  const char* stays = nullptr;  // what the trace says of connections, which stay on TCP; nullptr: they move
};

constexpr Lack kLacks[] = {
    {"MADV_WIPEONFORK", SYS_madvise, 2, MADV_WIPEONFORK, EINVAL, "the kernel lacks what the library needs"},
    {"membarrier", SYS_membarrier, kWhatever, 0, ENOSYS},
    {"membarrier, forbidden", SYS_membarrier, kWhatever, 0, EPERM},
    {"close_range", SYS_close_range, kWhatever, 0, ENOSYS},
    {"close_range, forbidden", SYS_close_range, kWhatever, 0, EPERM},
    {"epoll_pwait2", SYS_epoll_pwait2, kWhatever, 0, ENOSYS},
    {"epoll_pwait2, forbidden", SYS_epoll_pwait2, kWhatever, 0, EPERM},
    {"rseq", SYS_rseq, kWhatever, 0, ENOSYS},
    {"getrandom", SYS_getrandom, kWhatever, 0, ENOSYS},
    {"waitid", SYS_waitid, kWhatever, 0, ENOSYS},
    {"seals", SYS_fcntl, 1, F_GET_SEALS, EINVAL, "stays on TCP: the channel could not be mapped"},
    {"TCP_INFO", SYS_getsockopt, 2, TCP_INFO, ENOPROTOOPT, "stays on TCP: bytes moved behind the library's back"},
};

constexpr const char* kCases[] = {
    "stream: ping-pong of growing sizes",
    "stream: a writer fills everything and waits for the reader",
    "switch: a peek sees what is on both sides of it",
    "epoll: level-triggered reports until drained",
    "epoll: edge-triggered, both directions",
    "epoll: sleeping, woken by the peer, many times",
    "epoll: the reader sleeps in the set while the connection moves",
    "epoll: a set shared with a child",
    "cork: a receiver in epoll, level-triggered",
    "threads: two readers share what comes",
    "process: parent and child write in turn",
    "process: the parent closes, the child goes on, its end is the end",
    "process: the child of a bare system call closes with bytes unread",
    "process: exec keeps the connection",
    "process: a child that runs another program has a close-on-exec connection no more",
    "process: kill -9 of the child leaves the parent's connection",
    "close_range: closes what is in it",
    "close_range: what is refused closes nothing",
    "closefrom: closes all from there",
    "close: all bytes, then the end, again and again",
    "close: with bytes unread resets the peer",
};

constexpr Mode kModes[] = {
    {.name = "cold", .preload_server = true, .preload_client = true},
    {.name = "warm", .warm = true, .preload_server = true, .preload_client = true},
};

// This thread, and all that it starts, have such a kernel from here on.
bool Take(const Lack& lack) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, lack.call, 0, 3),
      // The low word, as both of our instruction sets are little-endian.
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
               static_cast<uint32_t>(lack.argument == kWhatever ? offsetof(seccomp_data, nr)
                                                                : offsetof(seccomp_data, args) + 8 * lack.argument)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, lack.argument == kWhatever ? lack.call : lack.value, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | lack.error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{static_cast<unsigned short>(std::size(program)), program};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

const Case* Find(const char* name) {
  for (const Case* each : Cases()) {
    if (!std::strcmp(each->name, name)) return each;
  }
  return nullptr;
}

// What is wrong with the case on this kernel; "" when nothing is.
std::string Wrong(const Lack& lack, const Case& which, const Mode& mode, const Preload& preload) {
  const Mode plain{.name = "plain", .family = mode.family, .warm = mode.warm};
  std::vector<Outcome> linux_says;
  Outcome ours;
  for (int run = 0; run < kRuns; ++run) {
    ours = RunOnce(which.name, mode, preload);
    const bool moved = ours.moved[0] == 3 && ours.moved[1] == 3;
    const bool may_stay = which.body.bare || which.body.stays || !mode.warm;
    if (lack.stays != nullptr && (ours.moved[0] | ours.moved[1]) != 0) return "  it moved\n";
    if (lack.stays == nullptr && !moved && !may_stay) return "  it stayed on TCP\n";
    for (int i = 0; i < kPlainRuns; ++i) {
      if (linux_says.size() == static_cast<size_t>(i)) linux_says.push_back(RunOnce(which.name, plain, preload));
      if (linux_says[static_cast<size_t>(i)] == ours) return "";
    }
  }
  return Difference(linux_says[0], ours);
}

// How many things are wrong on this kernel.
int RunWithout(const Lack& lack, Preload preload, const std::string& trace) {
  preload.extra = {"HETEROSOCK_TRACE=" + trace};
  std::mutex lock;
  std::atomic<size_t> next{0};
  std::atomic<int> wrong{0};
  std::vector<std::thread> workers;
  for (unsigned i = 0; i < 2 * std::max(2u, std::thread::hardware_concurrency()); ++i) {
    workers.emplace_back([&] {
      if (!Take(lack)) {  // by each thread: glibc would abort in one that is started without rseq when others have it
        ++wrong;
        return std::perror("seccomp");
      }
      for (size_t at; (at = next.fetch_add(1)) < std::size(kCases) * std::size(kModes);) {
        const Case* which = Find(kCases[at / std::size(kModes)]);
        Mode mode = kModes[at % std::size(kModes)];
        mode.stays = lack.stays != nullptr;
        const std::string text = which == nullptr ? "  no such case\n" : Wrong(lack, *which, mode, preload);
        if (text.empty()) continue;
        ++wrong;
        std::lock_guard hold(lock);
        std::printf("FAIL  %s, %s, %s\n%s", lack.what, mode.name, kCases[at / std::size(kModes)], text.c_str());
      }
    });
  }
  for (std::thread& worker : workers) worker.join();
  std::ostringstream said;
  said << std::ifstream(trace).rdbuf();
  if (lack.stays != nullptr && said.str().find(lack.stays) == std::string::npos) {
    ++wrong;
    std::printf("FAIL  %s: the trace does not say: %s\n", lack.what, lack.stays);
  }
  if (wrong == 0) std::printf("ok    %s: %s\n", lack.what, lack.stays == nullptr ? "moves" : lack.stays);
  std::fflush(stdout);
  return wrong;
}

int Main(int argc, char** argv) {  // [TEXT]: what has it in its name
  Agent agent;
  Preload preload;
  preload.library = BesideThisProgram("../libheterosock.so");
  if (preload.library.empty() || !agent.Start()) {
    std::printf("the library or heterosockd is not built\n");
    return 77;
  }
  preload.agent = agent.path();
  int wrong = 0;
  for (const Lack& lack : kLacks) {
    if (argc > 1 && std::strstr(lack.what, argv[1]) == nullptr) continue;
    const std::string trace = agent.path() + ".trace";
    unlink(trace.c_str());
    wrong += RunWithout(lack, preload, trace);
    unlink(trace.c_str());
  }
  return wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace heterok8s::heterosock::behaviour

int main(int argc, char** argv) {
  using namespace heterok8s::heterosock::behaviour;
  if (const std::optional<int> status = RunAsEnd(argc, argv)) return *status;
  return Main(argc, argv);
}
