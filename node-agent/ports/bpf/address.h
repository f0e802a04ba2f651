// Addresses: comparing them, reading and writing them in a context, what they mean to a Pod.
//
// Functions that are global (not static) are verified once instead of once for every path that leads to them: loading
// takes milliseconds instead of a second.
#pragma once

#include "node-agent/ports/bpf/maps.h"

// Context fields are read one by one: clang would join neighbours into one load, which the verifier refuses.
#define WORD(field) (*(volatile __u32 *)&(field))
#define WORDS(field) ((struct hk_addr){{WORD((field)[0]), WORD((field)[1]), WORD((field)[2]), WORD((field)[3])}})
static __always_inline struct hk_addr mapped(__be32 v4) { return (struct hk_addr){{0, 0, bpf_htonl(0xffff), v4}}; }
static __always_inline int same(const struct hk_addr *a, const struct hk_addr *b)
{
	return ((a->w[0] ^ b->w[0]) | (a->w[1] ^ b->w[1]) | (a->w[2] ^ b->w[2]) | (a->w[3] ^ b->w[3])) == 0;
}
static __always_inline int is_v4(const struct hk_addr *a)
{
	return (a->w[0] | a->w[1] | (a->w[2] ^ bpf_htonl(0xffff))) == 0;
}
static __always_inline int is_any(const struct hk_addr *a)  // 0.0.0.0 or ::
{
	int v6 = a->w[2] == 0, v4 = a->w[2] == bpf_htonl(0xffff);

	return ((a->w[0] | a->w[1] | a->w[3]) == 0) & (v6 | v4);
}
static __always_inline int is_loopback(const struct hk_addr *a)
{
	if (is_v4(a))
		return (bpf_ntohl(a->w[3]) >> 24) == 127;
	return (a->w[0] | a->w[1] | a->w[2] | (a->w[3] ^ bpf_htonl(1))) == 0;
}
__noinline int hk_meaning_of(const struct hk_pod *pod, const struct hk_addr *a)
{
	if (!pod || !a)
		return HK_NONE;
	if (is_loopback(a))
		return HK_LOCALHOST;
	for (int i = 0; i < HK_POD_ADDRESSES; i++) {
		if (i < pod->address_count && same(&pod->addresses[i], a))
			return HK_POD_IP;
	}
	return HK_NONE;
}

static __always_inline struct hk_addr dst6(struct bpf_sock_addr *c) { return WORDS(c->user_ip6); }
static __always_inline void set6(struct bpf_sock_addr *c, const struct hk_addr *a)
{
	WORD(c->user_ip6[0]) = a->w[0];
	WORD(c->user_ip6[1]) = a->w[1];
	WORD(c->user_ip6[2]) = a->w[2];
	WORD(c->user_ip6[3]) = a->w[3];
}
