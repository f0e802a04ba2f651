// The maps, and what every program needs: helpers of libbpf, numbers that linux/ headers keep from BPF.
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "node-agent/ports/layout.h"

#define AF_INET 2
#define AF_INET6 10
#define ENOENT 2
#define EEXIST 17
#define EADDRINUSE 98
#define EADDRNOTAVAIL 99
#define ENOBUFS 105
#define SOL_TCP 6

// Kernels before 5.18 have no bpf_set_retval; the verifier drops the call when these are false. The second is of
// post_bind, which got it later.
volatile const bool have_set_retval = true;
volatile const bool have_post_bind_retval = true;

// Memory as entries come: most Nodes need a small part of it.
#define HASH(name, key_type, value_type, most)                                                                         \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_HASH);                                                                       \
		__uint(max_entries, most);                                                                             \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                                                  \
		__type(key, key_type);                                                                                 \
		__type(value, value_type);                                                                             \
	} name SEC(".maps")
#define ARRAY(name, kind, value_type, count)                                                                           \
	struct {                                                                                                       \
		__uint(type, kind);                                                                                    \
		__uint(max_entries, count);                                                                            \
		__type(key, __u32);                                                                                    \
		__type(value, value_type);                                                                             \
	} name SEC(".maps")

HASH(pods, __u64, struct hk_pod, 4096);
HASH(pod_names, __u64, struct hk_pod_name, 4096);
HASH(shares, __u64, struct hk_share, 4096);
HASH(links, struct hk_addr, struct hk_link, 16384);
HASH(local, struct hk_claim_key, struct hk_local, HK_LOCAL_ENTRIES);
HASH(remote, struct hk_port_key, struct hk_remote, HK_REMOTE_ENTRIES);
HASH(callers, struct hk_callers_key, struct hk_callers, HK_CALLERS_ENTRIES);
ARRAY(burst, BPF_MAP_TYPE_ARRAY, __u32, 1);  // entries of all Pods beyond what each is guaranteed
ARRAY(full, BPF_MAP_TYPE_PERCPU_ARRAY, struct hk_full, 1);
ARRAY(stats, BPF_MAP_TYPE_PERCPU_ARRAY, __u64, HK_STAT_COUNT);
ARRAY(meta, BPF_MAP_TYPE_ARRAY, struct hk_meta, 1);
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, HK_LOCAL_ENTRIES);
	__type(key, struct hk_listener_key);
	__type(value, __u64);
} listeners SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct hk_socket);
} sockets SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");
