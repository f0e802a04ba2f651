// A Pod's share of the maps that all Pods use, and of the event ring. layout.h says how large it is.
//
// Only programs change it, each change in one step with what it counts, so there is nothing that the end of a heterod
// could leave half done and nothing to count again.
#pragma once

#include "node-agent/ports/bpf/maps.h"

// Every step of `used` over the guaranteed ones has its step of `burst`, in both directions, whoever makes them at the
// same time. The steps of one may come before those of another, so for a moment `burst` may be less than nothing: it is
// compared with its sign, or such a moment would be a refusal.
__noinline int hk_give(struct hk_share *share)
{
	__u32 zero = 0;

	if (!share)
		return 0;
	__u32 *used_by_all = bpf_map_lookup_elem(&burst, &zero);
	if (__sync_fetch_and_add(&share->used, -1) > HK_SHARE_GUARANTEED && used_by_all)
		__sync_fetch_and_add(used_by_all, -1);
	return 0;
}
// 1: one more entry is the Pod's.
__noinline int hk_take(struct hk_share *share)
{
	__u32 zero = 0;

	if (!share)
		return 0;
	__u32 *used_by_all = bpf_map_lookup_elem(&burst, &zero);
	if (!used_by_all)
		return 0;
	__u32 before = __sync_fetch_and_add(&share->used, 1);
	if (before < HK_SHARE_GUARANTEED)
		return 1;
	if ((__s32)__sync_fetch_and_add(used_by_all, 1) < HK_BURST_ENTRIES && before < HK_SHARE_MOST)
		return 1;
	hk_give(share);
	return 0;
}
// Would hk_take() fail now?
static __always_inline bool is_used_up(const struct hk_share *share)
{
	__u32 zero = 0;

	if (share->used < HK_SHARE_GUARANTEED)
		return false;
	__u32 *used_by_all = bpf_map_lookup_elem(&burst, &zero);
	return share->used >= HK_SHARE_MOST || !used_by_all || (__s32)*used_by_all >= HK_BURST_ENTRIES;
}

static __always_inline bool is_refusal(__u32 kind)
{
	return kind == HK_REFUSED || kind == HK_NO_ROOM || kind == HK_UNOWNED;
}
// How many came before this one in the window of `now`; 0 also when other CPUs are always faster.
static __always_inline __u32 number_in_window(__u64 *word, __u64 now)
{
	__u64 window = now / HK_WINDOW_NS;

	for (int i = 0; i < 4; i++) {
		__u64 seen = __sync_fetch_and_add(word, 0);
		__u64 next = seen >> HK_WINDOW_BITS < window ? window << HK_WINDOW_BITS | 1 : seen + 1;
		if (__sync_val_compare_and_swap(word, seen, next) == seen)
			return (next - 1) & ((1 << HK_WINDOW_BITS) - 1);
	}
	return 0;
}
enum { TELL_NOTHING, TELL, TELL_BEHIND };
// Called after the change that would be told. The comparison that HK_BEHIND asks for comes a window later than it, so
// after everything that this window keeps back.
__noinline int hk_may_tell(struct hk_share *share, __u32 kind)
{
	if (!share)
		return TELL;
	__u64 now = bpf_ktime_get_ns();
	if (is_refusal(kind))
		return number_in_window(&share->refused, now) < HK_WINDOW_REFUSALS ? TELL : TELL_NOTHING;
	__u32 before = number_in_window(&share->told, now);
	if (before < HK_WINDOW_EVENTS)
		return TELL;
	return before == HK_WINDOW_EVENTS ? TELL_BEHIND : TELL_NOTHING;
}
