// Names: a link address shown to a program becomes what it would see on one kernel.
#pragma once

#include "node-agent/ports/bpf/callers.h"
#include "node-agent/ports/bpf/claims.h"

static __always_inline struct hk_pod *pod_of(struct bpf_sock_addr *c)
{
	__u64 netns = bpf_get_netns_cookie(c);

	return bpf_map_lookup_elem(&pods, &netns);
}
// Of IPv4 the last word alone, in the hooks that each datagram passes.
static __always_inline __be32 shown4(const struct hk_pod *pod, __be32 a)
{
	const struct hk_pair *localhost = &pod->pair[HK_LOCALHOST], *ip = &pod->pair[HK_POD_IP];

	if (a == localhost->peer[0].w[3] || a == localhost->self[0].w[3] || a == pod->bound_localhost[0].w[3])
		return localhost->shown[0].w[3];
	if (a == ip->peer[0].w[3] || a == ip->self[0].w[3])
		return ip->shown[0].w[3];
	return a;
}
static __always_inline void show6(const struct hk_pod *pod, struct bpf_sock_addr *c, const struct hk_addr *a)
{
	const struct hk_pair *localhost = &pod->pair[HK_LOCALHOST], *ip = &pod->pair[HK_POD_IP];

	if (is_v4(a))
		WORD(c->user_ip6[3]) = shown4(pod, a->w[3]);
	else if (same(a, &localhost->peer[1]) || same(a, &localhost->self[1]) || same(a, &pod->bound_localhost[1]))
		set6(c, &localhost->shown[1]);
	else if (same(a, &ip->peer[1]) || same(a, &ip->self[1]))
		set6(c, &ip->shown[1]);
}
static __always_inline int name4(struct bpf_sock_addr *c)
{
	const struct hk_pod *pod = pod_of(c);

	if (pod)
		c->user_ip4 = shown4(pod, c->user_ip4);
	return 1;
}
static __always_inline int name6(struct bpf_sock_addr *c)
{
	const struct hk_pod *pod = pod_of(c);
	struct hk_addr a = dst6(c);

	if (pod)
		show6(pod, c, &a);
	return 1;
}
// Does a datagram that says it is from the Pod IP come from a socket of this PU?
__noinline int hk_sent_here(const struct hk_pod *pod, const struct hk_claim_key *from)
{
	if (!pod || !from)
		return 1;
	if (from->port >= pod->own_first && from->port <= pod->own_last)
		return !hk_owned_there(from);
	return hk_owned_here(from);
}
// The answer to a caller that bound itself before it connected has to go to what it is bound to.
static __always_inline void remember(struct bpf_sock_addr *c, struct hk_pod *pod, const struct hk_addr *from,
				     int meaning, bool bound)
{
	if (!bound && !pod->has_bound_callers)
		return;
	__u64 netns = bpf_get_netns_cookie(c);
	__u16 port = bpf_ntohs(c->user_port);
	bool is_v6 = !is_v4(from);
	struct hk_callers *near = callers_near(netns, port);
	__u64 bit = caller_bit(port, is_v6, meaning);
	bool known = near && (*word_of(near, port) & bit);
	if (!bound) {
		if (near && known)
			__sync_fetch_and_and(word_of(near, port), ~bit);
		return;
	}
	if (!known && meaning == HK_POD_IP) {
		struct hk_claim_key claim = {.netns = netns, .addr = *from, .port = port, .protocol = IPPROTO_UDP};
		if (hk_sent_here(pod, &claim))
			return;
	}
	pod->has_bound_callers = 1;  // each time: heterod may just have written the Pod anew
	if (!known)
		hk_remember(netns, port, bit);
}
static __always_inline void remember_any(struct bpf_sock_addr *c, struct hk_pod *pod, const struct hk_addr *from)
{
	const struct hk_pair *localhost = &pod->pair[HK_LOCALHOST], *ip = &pod->pair[HK_POD_IP];
	bool v4 = is_v4(from);

	if (same(from, v4 ? &localhost->peer[0] : &localhost->peer[1]))
		remember(c, pod, from, HK_LOCALHOST, false);
	else if (same(from, v4 ? &ip->peer[0] : &ip->peer[1]))
		remember(c, pod, from, HK_POD_IP, false);
	else if (same(from, v4 ? &pod->bound_localhost[0] : &pod->bound_localhost[1]))
		remember(c, pod, from, HK_LOCALHOST, true);
	else if (hk_meaning_of(pod, from) == HK_POD_IP)
		remember(c, pod, from, HK_POD_IP, true);
}
SEC("cgroup/recvmsg4") int hk_recvmsg4(struct bpf_sock_addr *c)
{
	struct hk_pod *pod = pod_of(c);
	struct hk_addr from = mapped(c->user_ip4);

	if (!pod)
		return 1;
	remember_any(c, pod, &from);
	c->user_ip4 = shown4(pod, from.w[3]);
	return 1;
}
SEC("cgroup/recvmsg6") int hk_recvmsg6(struct bpf_sock_addr *c)
{
	struct hk_pod *pod = pod_of(c);
	struct hk_addr from = dst6(c);

	if (!pod)
		return 1;
	remember_any(c, pod, &from);
	show6(pod, c, &from);
	return 1;
}
SEC("cgroup/getpeername4") int hk_peername4(struct bpf_sock_addr *c) { return name4(c); }
SEC("cgroup/getpeername6") int hk_peername6(struct bpf_sock_addr *c) { return name6(c); }
SEC("cgroup/getsockname4") int hk_sockname4(struct bpf_sock_addr *c) { return name4(c); }
SEC("cgroup/getsockname6") int hk_sockname6(struct bpf_sock_addr *c) { return name6(c); }
