/* What the BPF programs and heterod share: keys and values of every map, and the event.
 *
 * Purpose: the one definition of the formats that outlive a heterod (the maps are pinned). Change anything here and
 * HK_PORTS_LAYOUT must grow: Create() then drops the old pins and scans again.
 * Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d. Ports are in host order. C and C++.
 * Threading, ownership, errors: none; these are values. Padding is zero: keys are compared as bytes.
 *
 *   struct hk_port_key key = {.netns = cookie, .port = 15001, .protocol = IPPROTO_TCP};
 *   struct hk_remote *theirs = bpf_map_lookup_elem(&remote, &key);
 */
#pragma once

#include <linux/types.h>

#define HK_PORTS_LAYOUT 4
#define HK_REMOTE_CLAIMS 8 /* claims of the other PU on one port: different addresses */
#define HK_POD_ADDRESSES 8
#define HK_LISTENER_SLOTS 8 /* sockets of one REUSEPORT group that are known to sk_lookup at a time */
#define HK_LISTENER_BITS 1024

struct hk_addr {
  __u32 w[4];
};

/* What a call means; index of hk_pod.pair. */
enum hk_meaning { HK_LOCALHOST = 0, HK_POD_IP = 1, HK_NONE = 2 };

/* local: claims of sockets on this PU. */
struct hk_claim_key {
  __u64 netns; /* cookie */
  struct hk_addr addr;
  __u16 port;
  __u8 protocol;
  __u8 dual; /* :: without IPV6_V6ONLY */
  __u32 zero;
};
struct hk_local {
  __u64 since_ns;   /* CLOCK_MONOTONIC of the first socket */
  __u64 changed_ns; /* of the last transition to or from zero */
  __u32 sockets;    /* zero: a leftover that heterod removes after a while */
  __u32 zero;
};

/* remote: claims of the other PU, all of one port in one value so that a change is one update. */
struct hk_port_key {
  __u64 netns;
  __u16 port;
  __u8 protocol;
  __u8 zero[5];
};
struct hk_claim {
  struct hk_addr addr;
  __u32 dual;
};
struct hk_remote {
  __u32 count;
  struct hk_claim claims[HK_REMOTE_CLAIMS];
};

/* pods: keyed by cookie. Index 0 of self, peer and shown is IPv4, 1 is IPv6. */
struct hk_pair {
  struct hk_addr self[2];  /* this PU's link address */
  struct hk_addr peer[2];  /* the other PU's */
  struct hk_addr shown[2]; /* what programs see instead of either */
};
struct hk_pod {
  __u64 generation;                  /* grows when the Pod is added anew: older counts of its sockets are void */
  struct hk_pair pair[2];            /* by hk_meaning */
  struct hk_addr bound_localhost[2]; /* what a caller that bound itself to localhost is called on the link */
  __u32 address_count;
  struct hk_addr addresses[HK_POD_ADDRESSES];
  __u16 own_first, own_last, other_first, other_last; /* ephemeral ports */
  __u32 has_bound_callers; /* of this Pod something is, or was, in bound_callers. Written by programs */
};
/* pod_names: keyed by cookie; for heterod only. */
struct hk_pod_name {
  char pod_key[256];
  char netns_path[256];
  __u32 side; /* 0 host, 1 DPU */
};

/* links: this PU's link address -> whose it is. */
struct hk_link {
  __u64 netns;
  __u32 meaning;
  __u32 zero;
  /* By port modulo HK_LISTENER_BITS: a socket with this port is, or was, in `listeners`. Written by programs. A packet
   * for a port without the bit, which is nearly every one, costs no look into the sockhash. */
  __u64 listeners[HK_LISTENER_BITS / 64];
};

/* listeners (sockhash): sockets that a link address does not match by itself. */
struct hk_listener_key {
  __u64 netns;
  __u16 port;
  __u8 protocol;
  __u8 meaning;
  __u8 is_v6;
  __u8 slot;
  __u16 zero;
};

/* bound_callers: UDP ports of the other PU whose last datagram came from a socket that was bound before it connected,
 * so that answers must go to what it is bound to: hk_pod.bound_localhost (HK_LOCALHOST), the Pod IP itself (HK_POD_IP).
 * Least recently used ones are forgotten. */
struct hk_caller_key {
  __u64 netns;
  __u16 port;
  __u8 is_v6;
  __u8 meaning;
  __u8 zero[4];
};

/* sockets (sk_storage): what a socket has claimed, for the hooks that cannot read it any more. */
struct hk_socket {
  struct hk_claim_key key;
  __u64 generation; /* of the Pod when it was counted */
  __u32 counted;
  __u8 v6only;
  __u8 hashed;
  __u16 zero;
};

/* HK_SLOT_FREE: a socket of a REUSEPORT group left the sockhash and the group may have one that found no slot. */
enum hk_event_kind { HK_OPENED = 1, HK_CLOSED = 2, HK_REFUSED = 3, HK_SLOT_FREE = 4 };
struct hk_event {
  struct hk_claim_key key;
  __u64 time_ns; /* CLOCK_MONOTONIC */
  __u32 kind;
  __u32 pid; /* in the initial PID namespace */
  char command[16];
};

enum hk_stat { HK_STAT_OPENED, HK_STAT_CLOSED, HK_STAT_REFUSED, HK_STAT_DIRECT, HK_STAT_LOST, HK_STAT_COUNT };

struct hk_meta {
  __u32 layout;
  __u32 zero;
  __u64 object_hash; /* of the embedded object whose programs are attached */
};
