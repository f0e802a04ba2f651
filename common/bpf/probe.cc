#include "common/bpf/probe.h"

#include <bpf/bpf.h>
#include <unistd.h>

#include <string_view>

#include "common/bpf/log.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::bpf {

bool CanLoad(bpf_prog_type type, bpf_attach_type attach_type) {
  const bpf_insn program[] = {
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 1},
      {.code = BPF_JMP | BPF_EXIT},
  };
  LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = attach_type);
  sys::UniqueFd fd(bpf_prog_load(type, "hk_probe", "GPL", program, 2, &options));
  return fd.valid();
}

// libbpf_probe_bpf_helper (1.1) says yes to everything on kernels whose verifier says "program of this type cannot use
// helper" where older ones said "unknown func".
bool HasHelper(bpf_prog_type type, bpf_attach_type attach_type, bpf_func_id helper) {
  const bpf_insn program[] = {
      {.code = BPF_JMP | BPF_CALL, .imm = helper},
      {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 1},
      {.code = BPF_JMP | BPF_EXIT},
  };
  char log[4096] = "";
  LIBBPF_OPTS(bpf_prog_load_opts, options, .expected_attach_type = attach_type, .log_level = 1, .log_size = sizeof log,
              .log_buf = log);
  sys::UniqueFd fd(bpf_prog_load(type, "hk_probe", "GPL", program, 3, &options));
  if (fd.valid()) return true;
  // A helper that is there is refused for its arguments, which we do not pass.
  std::string_view text(log);
  for (std::string_view absent : {"unknown func", "invalid func", "cannot use helper"}) {
    if (text.find(absent) != text.npos) return false;
  }
  return !text.empty();
}

bool HasMap(bpf_map_type type) {
  LogCapture quiet;
  return libbpf_probe_bpf_map_type(type, nullptr) == 1;
}

bool HasKernelBtf() { return access("/sys/kernel/btf/vmlinux", R_OK) == 0; }

}  // namespace heterok8s::bpf
