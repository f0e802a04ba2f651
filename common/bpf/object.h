// Load an embedded BPF object and keep its maps and links across restarts of the program.
//
// Purpose: every map of the object is pinned in one folder by its name and reused from there; every cgroup link is
// pinned in another, found again, and switched to the new program atomically.
// Threading: thread-compatible. Ownership: the object owns maps and programs of this process; the pins own the
// kernel's. Errors: libbpf's and the verifier's last words are part of the text. kFailedPrecondition: a pinned map has
// another layout.
//
//   HK_ASSIGN_OR_RETURN(BpfObject object, OpenObject({ports_bpf, ports_bpf_len}, "ports"));
//   HK_RETURN_IF_ERROR(LoadObject(object.get(), "/run/heterok8s/bpf/maps"));
//   HK_RETURN_IF_ERROR(AttachCgroup(program, cgroup, "/run/heterok8s/bpf/links/connect4", /*replace=*/false));
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "common/bpf/handles.h"
#include "common/status/status.h"

namespace heterok8s::bpf {

// `bytes` must be aligned to 8 and outlive the object.
absl::StatusOr<BpfObject> OpenObject(std::span<const unsigned char> bytes, const std::string& name);

// Loads programs and maps. A map whose name is pinned in `map_folder` is reused; the others are made and pinned.
// Internal maps (.rodata, .bss) belong to one load and are not pinned.
absl::Status LoadObject(bpf_object* object, const std::string& map_folder);

// Attaches to `cgroup` beside everything else that is attached there and pins the link at `pin`. When `pin` exists, it
// stays, and with `replace` gets this program without a moment in which none is attached.
// kResourceExhausted: the cgroup has the kernel's 64 programs of this type.
absl::Status AttachCgroup(const bpf_program* program, int cgroup_fd, const std::string& pin, bool replace);

// The same for a program that attaches to a network namespace (sk_lookup).
absl::Status AttachNetns(const bpf_program* program, int netns_fd, const std::string& pin, bool replace);

// Gives the pinned link this program. kNotFound when nothing is pinned there.
absl::Status ReplaceProgram(const bpf_program* program, const std::string& pin);

// Removes a pin. OK when there is none.
absl::Status Unpin(const std::string& pin);

// FNV-1a: tells one build of an object from another.
uint64_t HashBytes(std::span<const unsigned char> bytes);

}  // namespace heterok8s::bpf
