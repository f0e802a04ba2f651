// What this kernel's BPF can do, asked by loading a two-instruction program rather than by reading a version.
//
// Threading: any thread. Ownership: nothing stays loaded. Errors: none; a missing capability to load any program shows
// as "no".
//
//   if (!CanLoad(BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP)) return absl::UnimplementedError("sk_lookup (kernel >= 5.9)");
#pragma once

#include <bpf/libbpf.h>

namespace heterok8s::bpf {

bool CanLoad(bpf_prog_type type, bpf_attach_type attach_type);
bool HasHelper(bpf_prog_type type, bpf_attach_type attach_type, bpf_func_id helper);
bool HasMap(bpf_map_type type);
bool HasKernelBtf();

}  // namespace heterok8s::bpf
