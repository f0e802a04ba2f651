// Calls: the destination of connect() and sendmsg() becomes a link address when the other PU owns the port.
#pragma once

#include "node-agent/ports/bpf/claims.h"

// The pair of link addresses over which a call to dst:port has to go, or null: this kernel's business.
static __always_inline struct hk_pair *direct(struct bpf_sock_addr *c, struct hk_addr *dst, struct hk_pod **of)
{
	__u64 netns = bpf_get_netns_cookie(c);
	struct hk_pod *pod = bpf_map_lookup_elem(&pods, &netns);
	if (!pod)
		return 0;
	*of = pod;
	if (is_any(dst)) {  // "connect to INADDR_ANY means loopback"
		dst->w[3] = is_v4(dst) ? bpf_htonl(0x7f000001) : bpf_htonl(1);
	}
	int meaning = hk_meaning_of(pod, dst);
	if (meaning == HK_NONE)
		return 0;
	struct hk_claim_key call = {
		.netns = netns, .addr = *dst, .port = bpf_ntohs(c->user_port), .protocol = c->protocol};
	if (call.protocol != IPPROTO_TCP && call.protocol != IPPROTO_UDP)
		return 0;
	// Answers of a UDP server go to a port that the kernel chose on the other PU, which nobody reports.
	if (!hk_owned_there(&call) &&
	    !(call.protocol == IPPROTO_UDP && call.port >= pod->other_first && call.port <= pod->other_last))
		return 0;
	if (hk_owned_here(&call))
		return 0;
	return meaning == HK_LOCALHOST ? &pod->pair[HK_LOCALHOST] : &pod->pair[HK_POD_IP];
}

// A socket bound to localhost before connect() cannot leave by the link: the kernel routes no loopback source there,
// and no hook may change a bound address. It stays with this kernel, which refuses, as it would an unowned port. One
// bound to the Pod IP can: the other side's netfilter rules know the way back.
static __always_inline bool source_fits(const struct hk_pod *pod, const struct hk_pair *pair, bool v4,
					const struct hk_addr *src)
{
	return is_any(src) || same(src, v4 ? &pair->self[0] : &pair->self[1]) || hk_meaning_of(pod, src) == HK_POD_IP;
}

SEC("cgroup/connect4") int hk_connect4(struct bpf_sock_addr *c)
{
	struct hk_addr dst = mapped(c->user_ip4);
	struct bpf_sock *sk = c->sk;
	struct hk_pod *pod = 0;
	struct hk_pair *pair = direct(c, &dst, &pod);
	if (!pair || !pod || !sk)
		return 1;
	struct hk_addr src = mapped(sk->src_ip4);
	if (!source_fits(pod, pair, true, &src))
		return 1;
	c->user_ip4 = pair->peer[0].w[3];
	count(HK_STAT_DIRECT);
	return 1;
}
SEC("cgroup/connect6") int hk_connect6(struct bpf_sock_addr *c)
{
	struct hk_addr dst = dst6(c);
	struct bpf_sock *sk = c->sk;
	struct hk_pod *pod = 0;
	struct hk_pair *pair = direct(c, &dst, &pod);
	bool v4 = is_v4(&dst);
	if (!pair || !pod || !sk)
		return 1;
	struct hk_addr src = WORDS(sk->src_ip6);
	if (!source_fits(pod, pair, v4, &src))
		return 1;
	set6(c, v4 ? &pair->peer[0] : &pair->peer[1]);
	count(HK_STAT_DIRECT);
	return 1;
}
SEC("cgroup/sendmsg4") int hk_sendmsg4(struct bpf_sock_addr *c)
{
	struct hk_addr dst = mapped(c->user_ip4);
	struct hk_pod *pod = 0;
	struct hk_pair *pair = direct(c, &dst, &pod);
	if (!pair)
		return 1;
	c->user_ip4 = pair->peer[0].w[3];
	c->msg_src_ip4 = pair->self[0].w[3];  // else a socket bound to localhost would send from 127.0.0.1
	return 1;
}
SEC("cgroup/sendmsg6") int hk_sendmsg6(struct bpf_sock_addr *c)
{
	struct hk_addr dst = dst6(c);
	if (is_v4(&dst))  // the IPv4 hook follows
		return 1;
	struct hk_pod *pod = 0;
	struct hk_pair *pair = direct(c, &dst, &pod);
	if (!pair)
		return 1;
	set6(c, &pair->peer[1]);
	WORD(c->msg_src_ip6[0]) = pair->self[1].w[0];
	WORD(c->msg_src_ip6[1]) = pair->self[1].w[1];
	WORD(c->msg_src_ip6[2]) = pair->self[1].w[2];
	WORD(c->msg_src_ip6[3]) = pair->self[1].w[3];
	return 1;
}
