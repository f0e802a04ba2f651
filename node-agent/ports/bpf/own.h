// Ports are owned here from bind (UDP) or listen (TCP) to the end of the socket, and refused at bind when the other PU
// owns them.
#pragma once

#include "node-agent/ports/bpf/claims.h"
#include "node-agent/ports/bpf/kernel_types.h"

// ENOBUFS is POSIX's word for it: "insufficient resources were available to complete the call". Programs take
// EADDRINUSE as a reason to try the next port, and EADDRNOTAVAIL as one to wait for an address.
static __always_inline void no_room(const struct hk_claim_key *key)
{
	count(HK_STAT_NO_ROOM);
	emit(key, HK_NO_ROOM, bpf_ktime_get_ns());
}

// Bind.
static __always_inline int may_bind(struct bpf_sock_addr *c, struct hk_claim_key *key)
{
	key->port = bpf_ntohs(c->user_port);
	key->protocol = c->protocol;
	if (key->port != 0 && hk_owned_there(key)) {
		count(HK_STAT_REFUSED);
		emit(key, HK_REFUSED, bpf_ktime_get_ns());
		if (have_set_retval)
			bpf_set_retval(-EADDRINUSE);
		return 0;
	}
	// Here, because no hook can refuse listen(). What is bound already is counted when it listens.
	struct hk_share *share = bpf_map_lookup_elem(&shares, &key->netns);
	if (share && is_used_up(share) && !bpf_map_lookup_elem(&local, key)) {
		no_room(key);
		if (have_set_retval)
			bpf_set_retval(-ENOBUFS);
		return 0;
	}
	return 1;
}
SEC("cgroup/bind4") int hk_bind4(struct bpf_sock_addr *c)
{
	struct hk_claim_key key = {.netns = bpf_get_netns_cookie(c), .addr = mapped(c->user_ip4)};
	if (!bpf_map_lookup_elem(&pods, &key.netns))
		return 1;
	return may_bind(c, &key);
}
SEC("cgroup/bind6") int hk_bind6(struct bpf_sock_addr *c)
{
	struct hk_claim_key key = {.netns = bpf_get_netns_cookie(c), .addr = dst6(c)};
	struct bpf_sock *sk = c->sk;
	bool v6only = false;

	if (!bpf_map_lookup_elem(&pods, &key.netns) || !sk)
		return 1;
	if (c->protocol == IPPROTO_TCP) {
		struct tcp6_sock *t = bpf_skc_to_tcp6_sock(sk);
		if (t)
			v6only = BPF_CORE_READ_BITFIELD(&t->tcp.inet_conn.icsk_inet.sk.__sk_common, skc_ipv6only);
	} else if (c->protocol == IPPROTO_UDP) {
		struct udp6_sock *u = bpf_skc_to_udp6_sock(sk);
		if (u)
			v6only = BPF_CORE_READ_BITFIELD(&u->udp.inet.sk.__sk_common, skc_ipv6only);
		// post_bind6 cannot look at the option; it cannot change between the two.
		struct hk_socket *s = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (s)
			s->v6only = v6only;
	} else {
		return 1;
	}
	key.dual = is_any(&key.addr) && !is_v4(&key.addr) && !v6only;
	return may_bind(c, &key);
}

// UDP: owned from bind.
static __always_inline int bound(struct bpf_sock *c, struct hk_claim_key *key)
{
	struct hk_pod *pod = bpf_map_lookup_elem(&pods, &key->netns);
	if (c->protocol != IPPROTO_UDP || !pod)
		return 1;
	struct hk_socket *s = bpf_sk_storage_get(&sockets, c, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return 1;
	unclaim(s);  // bound to port 0, disconnected, bound again
	key->port = c->src_port;
	key->protocol = IPPROTO_UDP;
	key->dual = is_any(&key->addr) && !is_v4(&key->addr) && !s->v6only;
	__u64 now = bpf_ktime_get_ns();
	int entered = claim(s, pod, key, now);
	if (entered == FIRST)
		tell_opened(key, now);
	if (entered == HELD_UP)
		leave_unowned(s, pod, key);
	if (entered != NO_ROOM)
		return 1;
	no_room(key);  // others took the room since may_bind(). The kernel gives the port back (from 5.17 on at once)
	if (have_post_bind_retval)
		bpf_set_retval(-ENOBUFS);
	return 0;
}
SEC("cgroup/post_bind4") int hk_bound4(struct bpf_sock *c)
{
	struct hk_claim_key key = {.netns = bpf_get_netns_cookie(c), .addr = mapped(c->src_ip4)};
	return bound(c, &key);
}
SEC("cgroup/post_bind6") int hk_bound6(struct bpf_sock *c)
{
	struct hk_claim_key key = {.netns = bpf_get_netns_cookie(c)};
	key.addr = WORDS(c->src_ip6);
	return bound(c, &key);
}
SEC("cgroup/sock_release") int hk_release(struct bpf_sock *c)
{
	struct hk_socket *s = bpf_sk_storage_get(&sockets, c, 0, 0);
	if (s) {
		*(volatile __u8 *)&s->released = 1;  // before the exchanges in unclaim()
		unclaim(s);
	}
	return 1;
}
