// What sockets claim: told to heterod, counted per key, compared with what a call or a bind asks for.
#pragma once

#include "node-agent/ports/bpf/address.h"

static __always_inline void count(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&stats, &which);
	if (n)
		*n += 1;  // per CPU, and programs do not preempt each other
}
static __always_inline void emit(const struct hk_claim_key *key, __u32 kind, __u64 now)
{
	struct hk_event *e = bpf_ringbuf_reserve(&events, sizeof *e, 0);
	if (!e) {
		count(HK_STAT_LOST);  // heterod sees the count and compares `local` with what it reported
		return;
	}
	e->key = *key;
	e->time_ns = now;
	e->kind = kind;
	e->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(e->command, sizeof e->command);
	bpf_ringbuf_submit(e, 0);
}

// Claims of this PU.
static __always_inline void claim(struct hk_socket *s, const struct hk_pod *pod, const struct hk_claim_key *key)
{
	struct hk_local *l = bpf_map_lookup_elem(&local, key);
	__u64 now = bpf_ktime_get_ns();

	if (!l) {
		struct hk_local fresh = {.since_ns = now, .changed_ns = now};

		bpf_map_update_elem(&local, key, &fresh, BPF_NOEXIST);
		l = bpf_map_lookup_elem(&local, key);
		if (!l) {
			count(HK_STAT_LOST);
			return;
		}
	}
	s->key = *key;
	s->generation = pod->generation;
	s->counted = 1;
	if (__sync_fetch_and_add(&l->sockets, 1) == 0) {
		l->since_ns = now;
		l->changed_ns = now;
		count(HK_STAT_OPENED);
		emit(key, HK_OPENED, now);
	}
}
// Close, shutdown and release may all come for one socket, the last without its lock: the exchange lets one win.
static __always_inline void unclaim(struct hk_socket *s)
{
	if (__sync_lock_test_and_set(&s->counted, 0) == 0)
		return;
	bool was_hashed = s->hashed;
	struct hk_claim_key key = s->key;

	s->hashed = 0;
	struct hk_pod *pod = bpf_map_lookup_elem(&pods, &key.netns);
	if (!pod || pod->generation != s->generation)
		return;
	struct hk_local *l = bpf_map_lookup_elem(&local, &key);
	if (!l || l->sockets == 0)
		return;
	__u32 before = __sync_fetch_and_add(&l->sockets, -1);
	__u64 now = bpf_ktime_get_ns();
	if (before == 1) {
		l->changed_ns = now;
		count(HK_STAT_CLOSED);
		emit(&key, HK_CLOSED, now);
	} else if (was_hashed && before > HK_LISTENER_SLOTS) {
		emit(&key, HK_SLOT_FREE, now);
	}
}
static __always_inline bool has_local(struct hk_claim_key *key)
{
	struct hk_local *l = bpf_map_lookup_elem(&local, key);
	return l && l->sockets > 0;
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
