// A map and a program, for the tests of loading and pinning.
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} numbers SEC(".maps");

SEC("sk_lookup") int look(struct bpf_sk_lookup *c) { return SK_PASS; }

char _license[] SEC("license") = "GPL";
