// Sockets older than this object, and UDP sockets that no hook may put into the sockhash.
//
// Read by heterod inside the Pod's network namespace, which is what these iterators walk. The kernel holds the socket's
// lock meanwhile, so a bind or listen is either complete or not begun.
#pragma once

#include "node-agent/ports/bpf/claims.h"
#include "node-agent/ports/bpf/kernel_types.h"
#include "node-agent/ports/bpf/listeners.h"

static __always_inline bool read_claim(struct sock *sk, struct hk_claim_key *key)
{
	struct sock_common *k = &sk->__sk_common;
	key->netns = k->skc_net.net->net_cookie;
	key->port = k->skc_num;
	if (k->skc_family == AF_INET) {
		key->addr = mapped(k->skc_rcv_saddr);
	} else {
		key->addr.w[0] = k->skc_v6_rcv_saddr.in6_u.u6_addr32[0];
		key->addr.w[1] = k->skc_v6_rcv_saddr.in6_u.u6_addr32[1];
		key->addr.w[2] = k->skc_v6_rcv_saddr.in6_u.u6_addr32[2];
		key->addr.w[3] = k->skc_v6_rcv_saddr.in6_u.u6_addr32[3];
		key->dual = is_any(&key->addr) && !is_v4(&key->addr) && !BPF_CORE_READ_BITFIELD(k, skc_ipv6only);
	}
	return key->port != 0;
}
// Counted for a Pod that was removed and has been added anew: that share is gone with what the socket had of it.
static __always_inline void forget_former_life(struct hk_socket *s, const struct hk_pod *pod)
{
	__u64 counted = s->counted, unowned = s->unowned;

	if (counted == pod->generation || unowned == pod->generation)
		return;
	__sync_val_compare_and_swap(&s->counted, counted, 0);
	__sync_val_compare_and_swap(&s->unowned, unowned, 0);
	if (s->hashed > 1)
		s->hashed = 1;
}
static __always_inline bool is_released(const struct hk_socket *s) { return *(volatile const __u8 *)&s->released; }
// Trying a slot that is taken costs a microsecond, and a Pod may have bound one port on thousands of addresses.
static __always_inline bool are_slots_taken(const struct hk_listener_key *l, __u64 session)
{
	__u32 zero = 0;
	struct hk_full *f = bpf_map_lookup_elem(&full, &zero);

	return f && f->session == session && f->key.netns == l->netns && f->key.port == l->port &&
	       f->key.protocol == l->protocol && f->key.meaning == l->meaning && f->key.is_v6 == l->is_v6;
}
static __always_inline void slots_are_taken(const struct hk_listener_key *l, __u64 session)
{
	__u32 zero = 0;
	struct hk_full *f = bpf_map_lookup_elem(&full, &zero);

	if (f) {
		f->session = session;
		f->key = *l;
	}
}
// sock_release comes without the socket's lock. Whichever of the two is later sees the other, so that a claim and a
// slot that a scan gave to a socket at its end are given back, once.
static __always_inline void scan(struct hk_socket *s, const struct hk_pod *pod, struct hk_claim_key *key, void *sk,
				 __u64 session)
{
	if (is_released(s))
		return;
	forget_former_life(s, pod);
	__u64 now = bpf_ktime_get_ns();
	int entered = s->counted ? FURTHER : claim(s, pod, key, now);
	if (entered < FIRST)
		leave_unowned(s, pod, key);
	int meaning = hk_meaning_of(pod, &key->addr);
	if (entered >= FIRST && meaning != HK_NONE) {
		struct hk_listener_key l = listener_key(key, meaning);
		expect(pod, &l);  // also of one that is in: the link may be made anew
		bool known = are_slots_taken(&l, session);
		int taken = 0;
		for (int i = 0; i < HK_LISTENER_SLOTS && !s->hashed && !known; i++) {
			l.slot = i;
			if (!may_have_slot(&l))
				break;
			long failed = bpf_map_update_elem(&listeners, &l, sk, BPF_NOEXIST);
			if (!failed)
				__sync_lock_test_and_set(&s->hashed, i + 1);
			else
				slot_is_taken(&l);
			taken += failed == -EEXIST;
		}
		if (!s->hashed)
			found_no_slot(key);
		if (taken == HK_LISTENER_SLOTS)
			slots_are_taken(&l, session);
	}
	if (entered == FIRST)
		tell_opened(key, now);
	if (!is_released(s))
		return;
	unclaim(s);
	if (__sync_lock_test_and_set(&s->hashed, 0) > 1)
		hk_give(bpf_map_lookup_elem(&shares, &key->netns));
}
SEC("iter/tcp") int hk_scan_tcp(struct bpf_iter__tcp *c)
{
	struct sock_common *k = c->sk_common;
	struct hk_claim_key key = {.protocol = IPPROTO_TCP};
	if (!k || k->skc_state != BPF_TCP_LISTEN)
		return 0;
	struct tcp_sock *t = bpf_skc_to_tcp_sock(k);
	if (!t || !read_claim(&t->inet_conn.icsk_inet.sk, &key))
		return 0;
	struct hk_pod *pod = bpf_map_lookup_elem(&pods, &key.netns);
	if (!pod)
		return 0;
	struct hk_socket *s = bpf_sk_storage_get(&sockets, t, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return 0;
	// As at listen; kernels before 6.10 refuse, and then only sock_release tells of the end.
	__u32 flags = 0;
	if (bpf_getsockopt(t, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof flags) == 0) {
		flags |= BPF_SOCK_OPS_STATE_CB_FLAG;
		bpf_setsockopt(t, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof flags);
	}
	scan(s, pod, &key, t, c->meta->session_id);
	return 0;
}
SEC("iter/udp") int hk_scan_udp(struct bpf_iter__udp *c)
{
	struct udp_sock *u = c->udp_sk;
	struct hk_claim_key key = {.protocol = IPPROTO_UDP};
	if (!u || !read_claim(&u->inet.sk, &key))
		return 0;
	// A port that the kernel chose at the first send is nobody's claim.
	if (!(BPF_CORE_READ_BITFIELD(&u->inet.sk, sk_userlocks) & (SOCK_BINDADDR_LOCK | SOCK_BINDPORT_LOCK)))
		return 0;
	struct hk_pod *pod = bpf_map_lookup_elem(&pods, &key.netns);
	if (!pod)
		return 0;
	struct hk_socket *s = bpf_sk_storage_get(&sockets, u, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (s)
		scan(s, pod, &key, u, c->meta->session_id);
	return 0;
}
