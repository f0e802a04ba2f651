// Sockets that a link address does not match by itself, in the sockhash by what they are bound to.
#pragma once

#include "node-agent/ports/bpf/address.h"

static __always_inline struct hk_listener_key listener_key(const struct hk_claim_key *key, int meaning)
{
	return (struct hk_listener_key){.netns = key->netns,
					.port = key->port,
					.protocol = key->protocol,
					.meaning = meaning,
					.is_v6 = !is_v4(&key->addr)};
}
