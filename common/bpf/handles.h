// Owned libbpf objects.
//
// Threading: a handle is as thread-safe as a unique_ptr. Destroying a BpfLink closes its descriptor: a pinned link
// stays attached, one that is not pinned is detached. Errors: libbpf's functions return null and set errno.
//
//   BpfLink link(bpf_program__attach_netns(program, ns.fd()));
#pragma once

#include <bpf/libbpf.h>

#include "common/sys/chandle.h"

namespace heterok8s::bpf {

using BpfObject = sys::CHandle<bpf_object, bpf_object__close>;
using BpfLink = sys::CHandle<bpf_link, bpf_link__destroy>;
using RingBuffer = sys::CHandle<ring_buffer, ring_buffer__free>;

}  // namespace heterok8s::bpf
