// Sockets that a link address does not match by itself, in the sockhash by what they are bound to.
#pragma once

#include "node-agent/ports/bpf/claims.h"

static __always_inline struct hk_listener_key listener_key(const struct hk_claim_key *key, int meaning)
{
	return (struct hk_listener_key){.netns = key->netns,
					.port = key->port,
					.protocol = key->protocol,
					.meaning = meaning,
					.is_v6 = !is_v4(&key->addr)};
}
// Before the socket goes in: from then on packets for its port are looked up.
static __always_inline void expect(const struct hk_pod *pod, const struct hk_listener_key *l)
{
	const struct hk_pair *pair = l->meaning == HK_LOCALHOST ? &pod->pair[HK_LOCALHOST] : &pod->pair[HK_POD_IP];
	struct hk_addr self = l->is_v6 ? pair->self[1] : pair->self[0];
	struct hk_link *link = bpf_map_lookup_elem(&links, &self);
	__u32 bit = l->port % HK_LISTENER_BITS;

	if (link)
		__sync_fetch_and_or(&link->listeners[bit / 64], 1ULL << (bit % 64));
}
static __always_inline bool expected(const struct hk_link *link, __u32 port)
{
	__u32 bit = port % HK_LISTENER_BITS;

	return (link->listeners[bit / 64] >> (bit % 64)) & 1;
}
// May a socket of this claim have this slot? The first comes with the claim, further ones are of the Pod's share.
static __always_inline bool may_have_slot(const struct hk_listener_key *l)
{
	return l->slot == 0 || hk_take(bpf_map_lookup_elem(&shares, &l->netns));
}
static __always_inline void slot_is_taken(const struct hk_listener_key *l)
{
	if (l->slot > 0)
		hk_give(bpf_map_lookup_elem(&shares, &l->netns));
}
static __always_inline void found_no_slot(const struct hk_claim_key *key)
{
	struct hk_local *l = bpf_map_lookup_elem(&local, key);

	if (l)
		l->no_slot = 1;
}
