// What heterod orders: changes that must be one step together with what the other programs do. Run by heterod through
// BPF_PROG_TEST_RUN and attached nowhere. Not a "syscall" program: before 6.1 those may not use maps like ours.
#pragma once

#include "node-agent/ports/bpf/callers.h"
#include "node-agent/ports/bpf/share.h"

SEC("tc") int hk_order(struct __sk_buff *packet)
{
	struct hk_order order;
	__u32 zero = 0;

	if (bpf_skb_load_bytes(packet, HK_ORDER_OFFSET, &order, sizeof order) != 0)
		return 0;
	if (order.kind == HK_FORGET_CLAIM) {
		if (bpf_map_delete_elem(&local, &order.key) != 0)
			return 0;
		hk_give(bpf_map_lookup_elem(&shares, &order.key.netns));
		return 1;
	}
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
