// What sockets claim: told to heterod, counted per key, compared with what a call or a bind asks for.
#pragma once

#include "node-agent/ports/bpf/address.h"
#include "node-agent/ports/bpf/share.h"

static __always_inline void count(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&stats, &which);
	if (n)
		__sync_fetch_and_add(n, 1);  // a program may be preempted, and another one run on its CPU
}
static __always_inline void emit(const struct hk_claim_key *key, __u32 kind, __u64 now)
{
	int told = hk_may_tell(bpf_map_lookup_elem(&shares, &key->netns), kind);
	if (told == TELL_NOTHING)
		return;
	struct hk_event *e = bpf_ringbuf_reserve(&events, sizeof *e, 0);
	if (!e) {
		count(HK_STAT_LOST);  // heterod sees the count and compares `local` with what it reported
		return;
	}
	e->key = *key;
	e->time_ns = now;
	e->kind = told == TELL_BEHIND ? HK_BEHIND : kind;
	e->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(e->command, sizeof e->command);
	bpf_ringbuf_submit(e, 0);
}

// Claims of this PU.

// An entry without sockets goes. The kernel may refuse that, with EBUSY, to a program that has interrupted a change of
// the same part of the map on its CPU (htab_lock_bucket()). Such an entry goes when its key is used again, or with its
// Pod.
static __always_inline void remove_claim(struct hk_local *l, const struct hk_claim_key *key)
{
	long failed = bpf_map_delete_elem(&local, key);

	if (!failed)
		hk_give(bpf_map_lookup_elem(&shares, &key->netns));
	else if (failed != -ENOENT)
		*(volatile __u32 *)&l->stuck = 1;
}
enum { NO_ROOM, HELD_UP, FIRST, FURTHER };
// Counts a socket in the entry of its claim, which is made with the first and goes with the last. NO_ROOM: the Pod has
// used its share.
//
// The memory of an entry that was removed may hold another one at once, of any Pod (from 6.1 on). So `life` is changed
// only from what it was while the key still led to it: another entry has another upper half, but for one in 2^32.
// HELD_UP: another program did not get from one step of unclaim() to the next, or the kernel has no memory. Only
// sockets that share their port meet such a program: the kernel keeps a port until then.
#define ENTER_TRIES 64
__noinline int hk_enter(const struct hk_claim_key *claim, __u64 now)
{
	if (!claim)
		return HELD_UP;
	struct hk_claim_key key = *claim;
	for (int i = 0; i < ENTER_TRIES; i++) {
		struct hk_local *l = bpf_map_lookup_elem(&local, &key);
		if (!l) {
			struct hk_share *share = bpf_map_lookup_elem(&shares, &key.netns);
			if (!share || !hk_take(share))
				return NO_ROOM;
			struct hk_local fresh = {.since_ns = now, .life = (__u64)bpf_get_prandom_u32() << 32 | 1};
			if (bpf_map_update_elem(&local, &key, &fresh, BPF_NOEXIST) == 0)
				return FIRST;
			hk_give(share);	 // another CPU was faster, or the kernel has no memory
			continue;
		}
		__u64 life = __sync_fetch_and_add(&l->life, 0);	 // a read that comes before the next look
		if (bpf_map_lookup_elem(&local, &key) != l)
			continue;
		if (HK_SOCKETS(life) == 0) {
			if (__sync_val_compare_and_swap(&l->stuck, 1, 0) == 1)
				remove_claim(l, &key);
			continue;
		}
		if (__sync_val_compare_and_swap(&l->life, life, life + 1) == life)
			return FURTHER;
	}
	return HELD_UP;
}
static __always_inline void count_unowned(const struct hk_claim_key *key, __u32 change)
{
	struct hk_share *share = bpf_map_lookup_elem(&shares, &key->netns);

	if (share)
		__sync_fetch_and_add(&share->unowned, change);
}
// Takes a socket out of the entry of its claim, which is there as long as the socket is counted in it. `hashed`: it has
// left a slot of `listeners`.
__noinline int hk_leave(const struct hk_claim_key *claim, __u32 hashed)
{
	if (!claim)
		return 0;
	struct hk_claim_key key = *claim;
	struct hk_local *l = bpf_map_lookup_elem(&local, &key);
	if (!l)
		return 0;
	__u32 no_slot = l->no_slot;
	__u32 sockets = HK_SOCKETS(__sync_fetch_and_add(&l->life, -1));
	if (sockets == 1) {
		remove_claim(l, &key);
		count(HK_STAT_CLOSED);
		emit(&key, HK_CLOSED, bpf_ktime_get_ns());
	} else if (hashed && (no_slot || sockets > HK_LISTENER_SLOTS)) {
		emit(&key, HK_SLOT_FREE, bpf_ktime_get_ns());
	}
	return 0;
}
static __always_inline int claim(struct hk_socket *s, const struct hk_pod *pod, const struct hk_claim_key *key,
				 __u64 now)
{
	int entered = hk_enter(key, now);

	if (entered < FIRST)
		return entered;
	s->key = *key;
	if (__sync_lock_test_and_set(&s->unowned, 0) == pod->generation)
		count_unowned(key, -1);
	// Before a scan looks at s->released. Before 6.5 a scan does not hold the lock of a UDP socket, so that it and
	// post_bind may both count it: the later one takes that back.
	if (__sync_lock_test_and_set(&s->counted, pod->generation) == pod->generation)
		hk_leave(key, 0);
	return entered;
}
static __always_inline void tell_opened(const struct hk_claim_key *key, __u64 now)
{
	count(HK_STAT_OPENED);
	emit(key, HK_OPENED, now);
}
// No hook can refuse this socket, or there is no reason to: it stays without an owner until the Pod has room and
// heterod scans it again.
static __always_inline void leave_unowned(struct hk_socket *s, const struct hk_pod *pod, const struct hk_claim_key *key)
{
	if (s->unowned)
		return;
	s->key = *key;
	count_unowned(key, 1);
	__sync_lock_test_and_set(&s->unowned, pod->generation);
	count(HK_STAT_UNOWNED);
	emit(key, HK_UNOWNED, bpf_ktime_get_ns());
}
// Close, shutdown and release may all come for one socket, the last without its lock: the exchanges let one win.
static __always_inline void unclaim(struct hk_socket *s)
{
	__u64 unowned = __sync_lock_test_and_set(&s->unowned, 0);
	__u64 counted = __sync_lock_test_and_set(&s->counted, 0);
	if (!counted && !unowned)
		return;
	__u32 hashed = __sync_lock_test_and_set(&s->hashed, 0);
	struct hk_claim_key key = s->key;

	struct hk_pod *pod = bpf_map_lookup_elem(&pods, &key.netns);
	if (!pod)
		return;
	if (unowned == pod->generation)
		count_unowned(&key, -1);
	if (counted != pod->generation)
		return;
	if (hashed > 1)
		hk_give(bpf_map_lookup_elem(&shares, &key.netns));
	hk_leave(&key, hashed);
}
static __always_inline bool has_local(struct hk_claim_key *key)
{
	struct hk_local *l = bpf_map_lookup_elem(&local, key);
	return l && HK_SOCKETS(l->life) > 0;
}
// Would a call to this address and port be answered by a socket of this PU?
__noinline int hk_owned_here(const struct hk_claim_key *call)
{
	if (!call)
		return 0;
	struct hk_claim_key key = *call;
	int v4 = is_v4(&call->addr);

	if (has_local(&key))
		return 1;
	key.addr.w[0] = key.addr.w[1] = key.addr.w[3] = 0;
	key.addr.w[2] = v4 ? bpf_htonl(0xffff) : 0;
	if (has_local(&key))
		return 1;
	key.addr.w[2] = 0;
	key.dual = 1;
	return has_local(&key);
}
static __always_inline int overlaps(const struct hk_claim_key *k, const struct hk_claim *c)
{
	int k6 = !is_v4(&k->addr), c6 = !is_v4(&c->addr);

	if (same(&k->addr, &c->addr))
		return 1;
	if (!is_any(&k->addr) && !is_any(&c->addr))
		return 0;
	return (k6 && c6) || ((!k6 || k->dual) && (!c6 || c->dual));
}
// Does the other PU own what overlaps this claim, or this destination of a call?
__noinline int hk_owned_there(const struct hk_claim_key *claim)
{
	if (!claim)
		return 0;
	struct hk_port_key key = {.netns = claim->netns, .port = claim->port, .protocol = claim->protocol};
	struct hk_remote *r = bpf_map_lookup_elem(&remote, &key);
	if (!r)
		return 0;
	for (int i = 0; i < HK_REMOTE_CLAIMS; i++) {
		if (i < r->count && overlaps(claim, &r->claims[i]))
			return 1;
	}
	return 0;
}
