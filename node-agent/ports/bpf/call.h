// Calls: the destination of connect() and sendmsg() becomes a link address when the other PU owns the port.
#pragma once

#include "node-agent/ports/bpf/callers.h"
#include "node-agent/ports/bpf/claims.h"

// Over which link addresses a call has to go.
struct way {
	const struct hk_pod *pod;
	const struct hk_addr *self, *peer;
	bool as_called;	 // a datagram keeps its destination: its receiver is bound to that and connected
};

// Finds the way to dst:port; false when that is this kernel's business.
static __always_inline bool direct(struct bpf_sock_addr *c, struct hk_addr *dst, struct way *way)
{
	__u64 netns = bpf_get_netns_cookie(c);
	struct hk_pod *pod = bpf_map_lookup_elem(&pods, &netns);
	if (!pod)
		return false;
	bool v4 = is_v4(dst);
	if (is_any(dst))  // "connect to INADDR_ANY means loopback"
		dst->w[3] = v4 ? bpf_htonl(0x7f000001) : bpf_htonl(1);
	int meaning = hk_meaning_of(pod, dst);
	if (meaning == HK_NONE)
		return false;
	struct hk_claim_key call = {
		.netns = netns, .addr = *dst, .port = bpf_ntohs(c->user_port), .protocol = c->protocol};
	if (call.protocol != IPPROTO_TCP && call.protocol != IPPROTO_UDP)
		return false;
	// Answers of a UDP server go to a port that the kernel chose on the other PU, which nobody reports.
	if (!hk_owned_there(&call) &&
	    !(call.protocol == IPPROTO_UDP && call.port >= pod->other_first && call.port <= pod->other_last))
		return false;
	if (hk_owned_here(&call))
		return false;
	struct hk_pair *pair = meaning == HK_LOCALHOST ? &pod->pair[HK_LOCALHOST] : &pod->pair[HK_POD_IP];
	way->pod = pod;
	way->self = v4 ? &pair->self[0] : &pair->self[1];
	way->peer = v4 ? &pair->peer[0] : &pair->peer[1];
	way->as_called = false;
	if (call.protocol == IPPROTO_UDP && pod->has_bound_callers) {
		struct hk_callers *near = callers_near(netns, call.port);
		if (near && (*word_of(near, call.port) & caller_bit(call.port, !v4, meaning))) {
			if (meaning == HK_POD_IP)
				way->as_called = true;	// from a link address, so podnet's table sends it over the link
			else
				way->peer = v4 ? &pod->bound_localhost[0] : &pod->bound_localhost[1];
		}
	}
	return true;
}
// This side's link address for a datagram of a socket that is bound to `src`: of the same meaning when it is bound to
// one address, whatever it calls.
static __always_inline const struct hk_addr *leaves_as(const struct way *way, const struct hk_addr *src)
{
	int meaning = is_any(src) ? HK_NONE : hk_meaning_of(way->pod, src);

	if (meaning == HK_NONE)
		return way->self;
	const struct hk_pair *pair =
		meaning == HK_LOCALHOST ? &way->pod->pair[HK_LOCALHOST] : &way->pod->pair[HK_POD_IP];
	return is_v4(src) ? &pair->self[0] : &pair->self[1];
}

// May a socket that is bound to src take this way? One bound to localhost can, by the name that podnet's table gives
// its packets; one bound to the Pod IP too: the other side's table knows the way back. No other could be answered:
// there is one name for localhost on the link, not one for each address of 127/8.
static __always_inline bool source_fits(const struct way *way, const struct hk_addr *src)
{
	struct hk_addr localhost4 = mapped(bpf_htonl(0x7f000001)), localhost6 = {{0, 0, 0, bpf_htonl(1)}};

	return is_any(src) || same(src, &localhost4) || same(src, &localhost6) || same(src, way->self) ||
	       hk_meaning_of(way->pod, src) == HK_POD_IP;
}

static __always_inline int cannot_leave_from_there(void)
{
	if (have_set_retval)
		bpf_set_retval(-EADDRNOTAVAIL);
	return 0;
}

SEC("cgroup/connect4") int hk_connect4(struct bpf_sock_addr *c)
{
	struct hk_addr dst = mapped(c->user_ip4);
	struct bpf_sock *sk = c->sk;
	struct way way;
	if (!sk || !direct(c, &dst, &way))
		return 1;
	struct hk_addr src = mapped(sk->src_ip4);
	if (!source_fits(&way, &src))
		return cannot_leave_from_there();
	c->user_ip4 = way.peer->w[3];
	count(HK_STAT_DIRECT);
	return 1;
}
SEC("cgroup/connect6") int hk_connect6(struct bpf_sock_addr *c)
{
	struct hk_addr dst = dst6(c);
	struct bpf_sock *sk = c->sk;
	struct way way;
	if (!sk || !direct(c, &dst, &way))
		return 1;
	struct hk_addr src = WORDS(sk->src_ip6);
	if (!source_fits(&way, &src))
		return cannot_leave_from_there();
	set6(c, way.peer);
	count(HK_STAT_DIRECT);
	return 1;
}
SEC("cgroup/sendmsg4") int hk_sendmsg4(struct bpf_sock_addr *c)
{
	struct hk_addr dst = mapped(c->user_ip4);
	struct bpf_sock *sk = c->sk;
	struct way way;
	if (!sk || !direct(c, &dst, &way))
		return 1;
	if (!way.as_called)
		c->user_ip4 = way.peer->w[3];
	struct hk_addr src = mapped(sk->src_ip4);
	c->msg_src_ip4 = leaves_as(&way, &src)->w[3];  // else one bound to localhost would send from 127.0.0.1
	return 1;
}
SEC("cgroup/sendmsg6") int hk_sendmsg6(struct bpf_sock_addr *c)
{
	struct hk_addr dst = dst6(c);
	struct bpf_sock *sk = c->sk;
	struct way way;
	if (is_v4(&dst))  // the IPv4 hook follows
		return 1;
	if (!sk || !direct(c, &dst, &way))
		return 1;
	if (!way.as_called)
		set6(c, way.peer);
	struct hk_addr src = WORDS(sk->src_ip6);
	const struct hk_addr *self = leaves_as(&way, &src);
	WORD(c->msg_src_ip6[0]) = self->w[0];
	WORD(c->msg_src_ip6[1]) = self->w[1];
	WORD(c->msg_src_ip6[2]) = self->w[2];
	WORD(c->msg_src_ip6[3]) = self->w[3];
	return 1;
}
