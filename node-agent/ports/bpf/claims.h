// What sockets claim: told to heterod, counted per key, compared with what a call or a bind asks for.
#pragma once

#include "node-agent/ports/bpf/address.h"
#include "node-agent/ports/bpf/share.h"

static __always_inline void count(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&stats, &which);
	if (n)
		*n += 1;  // per CPU, and programs do not preempt each other
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

// The entry of this claim, made when there is none; NULL when the Pod has no room for it.
static __always_inline struct hk_local *entry_of(const struct hk_claim_key *key)
{
	struct hk_local *l = bpf_map_lookup_elem(&local, key);
	if (l)
		return l;
	struct hk_share *share = bpf_map_lookup_elem(&shares, &key->netns);
	if (!share || !hk_take(share))
		return NULL;
	struct hk_local fresh = {.since_ns = bpf_ktime_get_ns()};

	fresh.changed_ns = fresh.since_ns;
	if (bpf_map_update_elem(&local, key, &fresh, BPF_NOEXIST) != 0)
		hk_give(share);	 // another CPU was faster, or the kernel has no memory
	return bpf_map_lookup_elem(&local, key);
}
// False: the Pod has no room for it, and the claim is nobody's.
static __always_inline bool claim(struct hk_socket *s, const struct hk_pod *pod, const struct hk_claim_key *key)
{
	for (int i = 0; i < 8; i++) {
		struct hk_local *l = entry_of(key);
		__u64 now = bpf_ktime_get_ns();

		if (!l)
			return false;
		__u32 before = __sync_fetch_and_add(&l->sockets, 1);
		if (before & HK_LEAVING)
			continue;  // hk_order takes it out just now
		s->key = *key;
		s->generation = pod->generation;
		s->unowned = 0;
		__sync_lock_test_and_set(&s->counted, 1);  // before a scan looks at s->released
		if (before == 0) {
			l->since_ns = now;
			l->changed_ns = now;
			count(HK_STAT_OPENED);
			emit(key, HK_OPENED, now);
		}
		return true;
	}
	return false;
}
// No hook can refuse this socket: it stays without an owner until the Pod has room and heterod scans it again.
static __always_inline void leave_unowned(struct hk_socket *s, const struct hk_claim_key *key)
{
	if (s->unowned)
		return;
	s->unowned = 1;
	struct hk_share *share = bpf_map_lookup_elem(&shares, &key->netns);
	if (share)
		__sync_fetch_and_add(&share->unowned, 1);
	count(HK_STAT_UNOWNED);
	emit(key, HK_UNOWNED, bpf_ktime_get_ns());
}
// Close, shutdown and release may all come for one socket, the last without its lock: the exchange lets one win.
static __always_inline void unclaim(struct hk_socket *s)
{
	if (__sync_lock_test_and_set(&s->counted, 0) == 0)
		return;
	__u32 hashed = __sync_lock_test_and_set(&s->hashed, 0);
	struct hk_claim_key key = s->key;

	struct hk_pod *pod = bpf_map_lookup_elem(&pods, &key.netns);
	if (!pod || pod->generation != s->generation)
		return;
	if (hashed > 1)
		hk_give(bpf_map_lookup_elem(&shares, &key.netns));
	struct hk_local *l = bpf_map_lookup_elem(&local, &key);
	if (!l || (int)l->sockets <= 0)
		return;
	__u32 before = __sync_fetch_and_add(&l->sockets, -1);
	__u64 now = bpf_ktime_get_ns();
	if (before == 1) {
		l->changed_ns = now;
		count(HK_STAT_CLOSED);
		emit(&key, HK_CLOSED, now);
	} else if (hashed && (l->no_slot || before > HK_LISTENER_SLOTS)) {
		emit(&key, HK_SLOT_FREE, now);
	}
}
static __always_inline bool has_local(struct hk_claim_key *key)
{
	struct hk_local *l = bpf_map_lookup_elem(&local, key);
	return l && (int)l->sockets > 0;
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
