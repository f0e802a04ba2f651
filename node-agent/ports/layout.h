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

#define HK_PORTS_LAYOUT 7
#define HK_REMOTE_CLAIMS 8 /* claims of the other PU on one port: different addresses; more become one on all */
#define HK_POD_ADDRESSES 8
#define HK_LISTENER_SLOTS 8 /* sockets of one REUSEPORT group that are known to sk_lookup at a time */
#define HK_LISTENER_BITS 1024

/* All Pods of a PU put their claims into the same maps. Each has a share of them, so that none can fill them: the first
 * HK_SHARE_GUARANTEED entries are there for 256 Pods whatever others do (the kubelet's default is 110 Pods, its usual
 * limit 250), and are some times more than what servers listen on. They take one half of `local`. The other half, for
 * all together, is for the few that need much (a media server with ten thousand UDP ports), up to HK_SHARE_MOST each.
 * An entry is a claim, or a further socket of a REUSEPORT group in `listeners`, so neither map holds more entries.
 * A bucket costs 16 bytes whether it is used or not, and a walk passes all of them. */
#define HK_LOCAL_ENTRIES 131072
#define HK_SHARE_GUARANTEED 256
#define HK_SHARE_MOST 16384
#define HK_BURST_ENTRIES (HK_LOCAL_ENTRIES / 2)
/* The other PU's claims obey the other PU's shares. After a reconnect its Pods' lists come one by one, so what one Pod
 * let go and another took may both be in force for a moment: room for the half that is shared, twice. */
#define HK_REMOTE_BURST (2 * HK_BURST_ENTRIES)
#define HK_REMOTE_ENTRIES (HK_LOCAL_ENTRIES / 2 + HK_REMOTE_BURST)

/* Of one Pod at most so many events go into the ring within a window; what more changes is found by comparing its
 * claims when the window has ended. */
#define HK_WINDOW_EVENTS 1024
#define HK_WINDOW_REFUSALS 16 /* who was refused; more are counted only */
#define HK_WINDOW_NS 100000000ULL
#define HK_WINDOW_BITS 24

/* Ports of one entry of `callers`, and entries when every port of 256 Pods is in. */
#define HK_CALLER_PORTS 256
#define HK_CALLERS_ENTRIES (256 * 65536 / HK_CALLER_PORTS)

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
  __u64 since_ns; /* CLOCK_MONOTONIC of the first socket */
  __u64 life;     /* HK_SOCKETS() of it; the rest tells this entry from others that had the same memory before */
  __u32 no_slot;  /* one of its sockets found no slot in `listeners` */
  __u32 stuck;    /* the program that took the last one out could not remove the entry: who meets it does */
};
/* None: the program that took the last one out is just removing the entry, or is stuck. Whoever meets it looks again.
 */
#define HK_SOCKETS(life) ((__u32)(life))

/* shares: keyed by cookie, made by heterod before the Pod's entry in `pods`; changed by programs alone. */
struct hk_share {
  __u32 used;    /* entries */
  __u32 unowned; /* sockets that found no room where no hook could refuse them, and have no owner now */
  __u64 told;    /* events: the number of their window, and how many in it: HK_WINDOW_BITS */
  __u64 refused; /* the same of HK_REFUSED, HK_NO_ROOM and HK_UNOWNED */
  __u32 callers; /* entries of `callers`; only grows */
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
  __u32 has_bound_callers; /* of this Pod something is, or was, in `callers`. Written by programs */
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

/* full: the slots that the scan of this CPU last found taken; all sockets of one UDP port come one after the other. */
struct hk_full {
  __u64 session; /* of the iterator */
  struct hk_listener_key key;
};

/* callers: UDP ports of the other PU whose last datagram came from a socket that was bound before it connected, so that
 * answers must go to what it is bound to: hk_pod.bound_localhost (HK_LOCALHOST), the Pod IP itself (HK_POD_IP). A bit
 * for each port, family and meaning: no Pod can have more entries than its ports fill. */
struct hk_callers_key {
  __u64 netns;
  __u16 first; /* port / HK_CALLER_PORTS */
  __u8 zero[6];
};
struct hk_callers {
  __u64 bits[HK_CALLER_PORTS * 4 / 64]; /* 4 * (port % HK_CALLER_PORTS) + 2 * is_v6 + meaning */
};

/* sockets (sk_storage): what a socket has claimed, for the hooks that cannot read it any more. */
struct hk_socket {
  struct hk_claim_key key;
  __u64 counted; /* in `local`: the Pod's generation then; 0: not counted */
  __u64 unowned; /* in hk_share.unowned: the same */
  __u32 hashed;  /* its slot in `listeners`, plus one; slots after the first are of the Pod's share */
  __u8 v6only;
  __u8 released; /* sock_release has come */
  __u8 zero[2];
};

/* HK_SLOT_FREE: a socket of a REUSEPORT group left the sockhash and the group may have one that found no slot.
 * HK_NO_ROOM, HK_UNOWNED: the Pod has used its share; the socket call was refused, could not be refused.
 * HK_BEHIND: more happens in this Pod than is told one by one. */
enum hk_event_kind {
  HK_OPENED = 1,
  HK_CLOSED = 2,
  HK_REFUSED = 3,
  HK_SLOT_FREE = 4,
  HK_NO_ROOM = 5,
  HK_UNOWNED = 6,
  HK_BEHIND = 7
};
struct hk_event {
  struct hk_claim_key key;
  __u64 time_ns; /* CLOCK_MONOTONIC */
  __u32 kind;
  __u32 pid; /* in the initial PID namespace */
  char command[16];
};

enum hk_stat {
  HK_STAT_OPENED,
  HK_STAT_CLOSED,
  HK_STAT_REFUSED,
  HK_STAT_DIRECT,
  HK_STAT_LOST,
  HK_STAT_NO_ROOM,
  HK_STAT_UNOWNED,
  HK_STAT_COUNT
};

/* What heterod lets the program hk_order do, because it must be one step together with what other programs do, and must
 * not be cut off by heterod's end. Given as a packet, from HK_ORDER_OFFSET on. */
#define HK_ORDER_OFFSET 16
enum hk_order_kind {
  HK_FORGET_CLAIM = 1,  /* removes key, whatever it is: its Pod is gone; 1 when it did */
  HK_DROP_SHARE = 2,    /* of key.netns: what is left of it goes back */
  HK_FORGET_CALLERS = 3 /* of key.netns and key.port */
};
struct hk_order {
  struct hk_claim_key key;
  __u32 kind;
  __u32 zero;
};

struct hk_meta {
  __u32 layout;
  __u32 zero;
  __u64 object_hash; /* of the embedded object whose programs are attached */
};
