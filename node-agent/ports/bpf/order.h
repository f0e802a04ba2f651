// What heterod orders: changes that must be one step together with what the other programs do. Run by heterod through
// BPF_PROG_TEST_RUN and attached nowhere. Not a "syscall" program: before 6.1 those may not use maps like ours.
#pragma once

#include "node-agent/ports/bpf/callers.h"
#include "node-agent/ports/bpf/share.h"

static __always_inline int forget(struct hk_claim_key *key)
{
	if (bpf_map_delete_elem(&local, key) != 0)
		return 0;
	hk_give(bpf_map_lookup_elem(&shares, &key->netns));
	return 1;
}
SEC("tc") int hk_order(struct __sk_buff *packet)
{
	struct hk_order order;
	__u32 zero = 0;

	if (bpf_skb_load_bytes(packet, HK_ORDER_OFFSET, &order, sizeof order) != 0)
		return 0;
	if (order.kind == HK_FORGET_LEFTOVER) {
		struct hk_local *l = bpf_map_lookup_elem(&local, &order.key);
		if (!l || l->changed_ns != order.changed_ns)
			return 0;
		// From here on a socket that wants this claim makes an entry of its own.
		if (__sync_val_compare_and_swap(&l->sockets, 0, HK_LEAVING) != 0)
			return 0;
		return forget(&order.key);
	}
	if (order.kind == HK_FORGET_CLAIM)
		return forget(&order.key);
	if (order.kind == HK_DROP_SHARE) {
		struct hk_share *share = bpf_map_lookup_elem(&shares, &order.key.netns);
		__u32 *used_by_all = bpf_map_lookup_elem(&burst, &zero);
		if (!share || !used_by_all)
			return 0;
		if (share->used > HK_SHARE_GUARANTEED)
			__sync_fetch_and_sub(used_by_all, share->used - HK_SHARE_GUARANTEED);
		return bpf_map_delete_elem(&shares, &order.key.netns) == 0;
	}
	if (order.kind == HK_FORGET_CALLERS) {
		struct hk_callers *near = callers_near(order.key.netns, order.key.port);
		if (near)
			__sync_fetch_and_and(word_of(near, order.key.port), ~(0xfULL << (order.key.port % 16 * 4)));
		return near != NULL;
	}
	return 0;
}
