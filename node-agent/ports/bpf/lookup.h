// The receiving side: which socket a packet to a link address is for.
//
// The kernel finds sockets bound to a wildcard by itself. This finds those bound to what the pair stands for, which are
// more specific and so come first, as they would on one kernel.
#pragma once

#include "node-agent/ports/bpf/listeners.h"

SEC("sk_lookup") int hk_lookup(struct bpf_sk_lookup *c)
{
	struct hk_addr a;
	if (c->family == AF_INET)
		a = mapped(c->local_ip4);
	else
		a = WORDS(c->local_ip6);
	struct hk_link *link = bpf_map_lookup_elem(&links, &a);
	if (!link || !expected(link, c->local_port))
		return SK_PASS;
	struct hk_listener_key key = {.netns = link->netns,
				      .port = c->local_port,
				      .protocol = c->protocol,
				      .meaning = link->meaning,
				      .is_v6 = c->family != AF_INET};
	for (int i = 0; i < HK_LISTENER_SLOTS; i++) {
		key.slot = i;
		struct bpf_sock *sk = bpf_map_lookup_elem(&listeners, &key);
		if (!sk)
			continue;
		// A connected UDP socket hears its peer only, and the kernel finds that one by itself.
		int error = sk->dst_port != 0 && c->protocol == IPPROTO_UDP ? -1 : bpf_sk_assign(c, sk, 0);
		bpf_sk_release(sk);
		if (!error)
			break;
	}
	return SK_PASS;
}
