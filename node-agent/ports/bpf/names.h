// Names: a link address shown to a program becomes what it would see on one kernel.
#pragma once

#include "node-agent/ports/bpf/address.h"

static __always_inline const struct hk_addr *shown(struct bpf_sock_addr *c, const struct hk_addr *a)
{
	__u64 netns = bpf_get_netns_cookie(c);
	struct hk_pod *pod = bpf_map_lookup_elem(&pods, &netns);
	if (!pod)
		return 0;
	bool v4 = is_v4(a);
	if (same(a, v4 ? &pod->bound_localhost[0] : &pod->bound_localhost[1]))
		return v4 ? &pod->pair[HK_LOCALHOST].shown[0] : &pod->pair[HK_LOCALHOST].shown[1];
	for (int m = 0; m < 2; m++) {
		struct hk_pair *pair = &pod->pair[m];
		if (v4) {
			if (same(a, &pair->self[0]) || same(a, &pair->peer[0]))
				return &pair->shown[0];
		} else if (same(a, &pair->self[1]) || same(a, &pair->peer[1])) {
			return &pair->shown[1];
		}
	}
	return 0;
}
static __always_inline int name4(struct bpf_sock_addr *c)
{
	struct hk_addr a = mapped(c->user_ip4);
	const struct hk_addr *s = shown(c, &a);
	if (s)
		c->user_ip4 = s->w[3];
	return 1;
}
static __always_inline int name6(struct bpf_sock_addr *c)
{
	struct hk_addr a = dst6(c);
	const struct hk_addr *s = shown(c, &a);
	if (s)
		set6(c, s);
	return 1;
}
// The answer to a caller that bound itself to localhost has to go to that name, which the program never sees.
static __always_inline void remember(struct bpf_sock_addr *c, const struct hk_addr *from)
{
	struct hk_caller_key caller = {
		.netns = bpf_get_netns_cookie(c), .port = bpf_ntohs(c->user_port), .is_v6 = !is_v4(from)};
	struct hk_pod *pod = bpf_map_lookup_elem(&pods, &caller.netns);
	if (!pod)
		return;
	__u8 *known = bpf_map_lookup_elem(&bound_callers, &caller);
	bool bound = same(from, caller.is_v6 ? &pod->bound_localhost[1] : &pod->bound_localhost[0]);
	if (bound && !known) {
		__u8 yes = 1;

		bpf_map_update_elem(&bound_callers, &caller, &yes, BPF_ANY);
	} else if (!bound && known &&
		   same(from, caller.is_v6 ? &pod->pair[HK_LOCALHOST].peer[1] : &pod->pair[HK_LOCALHOST].peer[0])) {
		bpf_map_delete_elem(&bound_callers, &caller);
	}
}
SEC("cgroup/recvmsg4") int hk_recvmsg4(struct bpf_sock_addr *c)
{
	struct hk_addr from = mapped(c->user_ip4);

	remember(c, &from);
	return name4(c);
}
SEC("cgroup/recvmsg6") int hk_recvmsg6(struct bpf_sock_addr *c)
{
	struct hk_addr from = dst6(c);

	remember(c, &from);
	return name6(c);
}
SEC("cgroup/getpeername4") int hk_peername4(struct bpf_sock_addr *c) { return name4(c); }
SEC("cgroup/getpeername6") int hk_peername6(struct bpf_sock_addr *c) { return name6(c); }
SEC("cgroup/getsockname4") int hk_sockname4(struct bpf_sock_addr *c) { return name4(c); }
SEC("cgroup/getsockname6") int hk_sockname6(struct bpf_sock_addr *c) { return name6(c); }
