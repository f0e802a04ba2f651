// TCP: owned from listen.
#pragma once

#include "node-agent/ports/bpf/claims.h"
#include "node-agent/ports/bpf/kernel_types.h"
#include "node-agent/ports/bpf/listeners.h"

SEC("sockops") int hk_sockops(struct bpf_sock_ops *o)
{
	if (o->op != BPF_SOCK_OPS_TCP_LISTEN_CB && o->op != BPF_SOCK_OPS_STATE_CB)
		return 1;
	struct bpf_sock *sk = o->sk;
	if (!sk)
		return 1;
	if (o->op == BPF_SOCK_OPS_STATE_CB) {
		// Accepted sockets inherit the flag that asks for this call; only the end of a listener matters.
		if (o->args[0] != BPF_TCP_LISTEN)
			return 1;
		struct hk_socket *s = bpf_sk_storage_get(&sockets, sk, 0, 0);
		if (s)
			unclaim(s);
		return 1;
	}
	struct hk_claim_key key = {.netns = bpf_get_netns_cookie(o), .port = o->local_port, .protocol = IPPROTO_TCP};
	struct hk_pod *pod = bpf_map_lookup_elem(&pods, &key.netns);
	if (!pod)
		return 1;
	if (o->family == AF_INET) {
		key.addr = mapped(o->local_ip4);
	} else {
		key.addr = WORDS(o->local_ip6);
		struct tcp6_sock *t = bpf_skc_to_tcp6_sock(sk);
		if (t && is_any(&key.addr) && !is_v4(&key.addr))
			key.dual = !BPF_CORE_READ_BITFIELD(&t->tcp.inet_conn.icsk_inet.sk.__sk_common, skc_ipv6only);
	}
	struct hk_socket *s = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return 1;
	unclaim(s);
	__u64 now = bpf_ktime_get_ns();
	int entered = claim(s, pod, &key, now);
	if (entered < FIRST)
		leave_unowned(s, pod, &key);
	// Reachable before it is reported: the other PU must find the socket when it hears of it.
	int meaning = hk_meaning_of(pod, &key.addr);
	if (entered >= FIRST && meaning != HK_NONE) {
		struct hk_listener_key l = listener_key(&key, meaning);
		expect(pod, &l);
		for (int i = 0; i < HK_LISTENER_SLOTS && !s->hashed; i++) {
			l.slot = i;
			if (!may_have_slot(&l))
				break;
			if (bpf_sock_hash_update(o, &listeners, &l, BPF_NOEXIST) == 0)
				s->hashed = i + 1;
			else
				slot_is_taken(&l);
		}
		if (!s->hashed)
			found_no_slot(&key);
	}
	if (entered == FIRST)
		tell_opened(&key, now);
	// shutdown(), connect(AF_UNSPEC) and a multipath TCP close never reach sock_release with this socket.
	bpf_sock_ops_cb_flags_set(o, o->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	return 1;
}
