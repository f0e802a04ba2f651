// Callers that bound themselves before they connected: one bit for each port, family and meaning. See layout.h.
#pragma once

#include "node-agent/ports/bpf/maps.h"

static __always_inline struct hk_callers *callers_near(__u64 netns, __u16 port)
{
	struct hk_callers_key key = {.netns = netns, .first = port / HK_CALLER_PORTS};

	return bpf_map_lookup_elem(&callers, &key);
}
static __always_inline __u64 *word_of(struct hk_callers *c, __u16 port)
{
	return &c->bits[port % HK_CALLER_PORTS / 16];
}
static __always_inline __u64 caller_bit(__u16 port, bool is_v6, int meaning)
{
	return 1ULL << (port % 16 * 4 + is_v6 * 2 + (meaning & 1));
}
__noinline int hk_remember(__u64 netns, __u16 port, __u64 bit)
{
	struct hk_callers *c = callers_near(netns, port);

	if (!c) {
		struct hk_callers_key key = {.netns = netns, .first = port / HK_CALLER_PORTS};
		struct hk_callers none = {};
		struct hk_share *share = bpf_map_lookup_elem(&shares, &netns);
		if (share && bpf_map_update_elem(&callers, &key, &none, BPF_NOEXIST) == 0)
			__sync_fetch_and_add(&share->callers, 1);
		c = callers_near(netns, port);
	}
	if (c)
		__sync_fetch_and_or(word_of(c, port), bit);
	return 0;
}
