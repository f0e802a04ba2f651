// What the cases of programs that give up system calls share.
#pragma once

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <vector>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {

// Kills the process at any other call than these.
struct Filter {
  explicit Filter(const std::vector<uint32_t>& allowed) {
    code.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
    for (uint32_t number : allowed) {
      code.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1));
      code.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    }
    code.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
    program = {static_cast<unsigned short>(code.size()), code.data()};
  }
  std::vector<sock_filter> code;
  sock_fprog program{};
};

inline void SayRead(End& e) {
  char bytes[100];
  const ssize_t n = read(e.sock, bytes, sizeof bytes);
  e.Say("%zd %.*s", n, n > 0 ? static_cast<int>(n) : 0, bytes);
}

}  // namespace heterok8s::heterosock::behaviour
