// Direct calls and port ownership at the socket. docs/design/ports.md says why; layout.h says what the maps hold.
//
// Attached to the root of cgroup v2, where every socket of the machine passes, so each program begins by asking whether
// the socket's network namespace is one of this heterod's Pods, and leaves at once when it is not.
#include <linux/bpf.h>
#include <linux/in.h>
#include <stdbool.h>

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "node-agent/ports/layout.h"

#define AF_INET 2
#define AF_INET6 10
#define EADDRINUSE 98
#define SOL_TCP 6
#define TCP_BPF_SOCK_OPS_CB_FLAGS 1008 // newer than Debian 12's linux/bpf.h
#define SOCK_BINDADDR_LOCK 4
#define SOCK_BINDPORT_LOCK 8

char _license[] SEC("license") = "GPL";

// Kernels before 5.18 have no bpf_set_retval; the verifier drops the call when this is false.
volatile const bool have_set_retval = true;

struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4096); __uint(map_flags, BPF_F_NO_PREALLOC); __type(key, __u64); __type(value, struct hk_pod); } pods SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4096); __uint(map_flags, BPF_F_NO_PREALLOC); __type(key, __u64); __type(value, struct hk_pod_name); } pod_names SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 16384); __uint(map_flags, BPF_F_NO_PREALLOC); __type(key, struct hk_addr); __type(value, struct hk_link); } links SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 65536); __uint(map_flags, BPF_F_NO_PREALLOC); __type(key, struct hk_claim_key); __type(value, struct hk_local); } local SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 65536); __uint(map_flags, BPF_F_NO_PREALLOC); __type(key, struct hk_port_key); __type(value, struct hk_remote); } remote SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_SOCKHASH); __uint(max_entries, 131072); __type(key, struct hk_listener_key); __type(value, __u64); } listeners SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_SK_STORAGE); __uint(map_flags, BPF_F_NO_PREALLOC); __type(key, int); __type(value, struct hk_socket); } sockets SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_RINGBUF); __uint(max_entries, 1 << 20); } events SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY); __uint(max_entries, HK_STAT_COUNT); __type(key, __u32); __type(value, __u64); } stats SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, struct hk_meta); } meta SEC(".maps");

// ---- kernel types that have no UAPI view; offsets come from the running kernel's BTF ----
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)
struct net {
	__u64 net_cookie;
};
struct sock_common {
	unsigned short skc_family;
	volatile unsigned char skc_state;
	unsigned char skc_ipv6only : 1;
	__be32 skc_rcv_saddr;
	__u16 skc_num;
	struct { struct net *net; } skc_net;
	struct { union { __u32 u6_addr32[4]; } in6_u; } skc_v6_rcv_saddr;
};
struct sock {
	struct sock_common __sk_common;
	unsigned char sk_userlocks : 4;
};
struct inet_sock { struct sock sk; };
struct inet_connection_sock { struct inet_sock icsk_inet; };
struct tcp_sock { struct inet_connection_sock inet_conn; };
struct udp_sock { struct inet_sock inet; };
struct tcp6_sock { struct tcp_sock tcp; };
struct udp6_sock { struct udp_sock udp; };
struct bpf_iter_meta { void *seq; };
struct bpf_iter__tcp { struct bpf_iter_meta *meta; struct sock_common *sk_common; };
struct bpf_iter__udp { struct bpf_iter_meta *meta; struct udp_sock *udp_sk; };
#pragma clang attribute pop

// ---- addresses ----
// Functions that are global here (not static) are verified once instead of once for every path that leads to them:
// loading takes milliseconds instead of a second.
// Context fields are read one by one: clang would join neighbours into one load, which the verifier refuses.
#define WORD(field) (*(volatile __u32 *)&(field))
#define WORDS(field) ((struct hk_addr){{WORD((field)[0]), WORD((field)[1]), WORD((field)[2]), WORD((field)[3])}})
static __always_inline struct hk_addr mapped(__be32 v4)
{
	return (struct hk_addr){{0, 0, bpf_htonl(0xffff), v4}};
}
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

// ---- statistics and events ----
static __always_inline void count(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&stats, &which);
	if (n)
		*n += 1;  // per CPU, and programs do not preempt each other
}
static __always_inline void emit(const struct hk_claim_key *key, __u32 kind, __u64 now)
{
	struct hk_event *e = bpf_ringbuf_reserve(&events, sizeof *e, 0);
	if (!e) {
		count(HK_STAT_LOST);  // heterod sees the count and compares `local` with what it reported
		return;
	}
	e->key = *key;
	e->time_ns = now;
	e->kind = kind;
	e->pid = bpf_get_current_pid_tgid() >> 32;
	bpf_get_current_comm(e->command, sizeof e->command);
	bpf_ringbuf_submit(e, 0);
}

// ---- claims of this PU ----
static __always_inline void claim(struct hk_socket *s, const struct hk_pod *pod, const struct hk_claim_key *key)
{
	struct hk_local *l = bpf_map_lookup_elem(&local, key);
	__u64 now = bpf_ktime_get_ns();

	if (!l) {
		struct hk_local fresh = {.since_ns = now, .changed_ns = now};

		bpf_map_update_elem(&local, key, &fresh, BPF_NOEXIST);
		l = bpf_map_lookup_elem(&local, key);
		if (!l) {
			count(HK_STAT_LOST);
			return;
		}
	}
	s->key = *key;
	s->generation = pod->generation;
	s->counted = 1;
	if (__sync_fetch_and_add(&l->sockets, 1) == 0) {
		l->since_ns = now;
		l->changed_ns = now;
		count(HK_STAT_OPENED);
		emit(key, HK_OPENED, now);
	}
}
// Close, shutdown and release may all come for one socket, the last without its lock: the exchange lets one win.
static __always_inline void unclaim(struct hk_socket *s)
{
	if (__sync_lock_test_and_set(&s->counted, 0) == 0)
		return;
	bool was_hashed = s->hashed;
	struct hk_claim_key key = s->key;

	s->hashed = 0;
	struct hk_pod *pod = bpf_map_lookup_elem(&pods, &key.netns);
	if (!pod || pod->generation != s->generation)
		return;
	struct hk_local *l = bpf_map_lookup_elem(&local, &key);
	if (!l || l->sockets == 0)
		return;
	__u32 before = __sync_fetch_and_add(&l->sockets, -1);
	__u64 now = bpf_ktime_get_ns();
	if (before == 1) {
		l->changed_ns = now;
		count(HK_STAT_CLOSED);
		emit(&key, HK_CLOSED, now);
	} else if (was_hashed && before > HK_LISTENER_SLOTS) {
		emit(&key, HK_SLOT_FREE, now);
	}
}
static __always_inline bool has_local(struct hk_claim_key *key)
{
	struct hk_local *l = bpf_map_lookup_elem(&local, key);
	return l && l->sockets > 0;
}
// Would a call to this address and port be answered by a socket of this PU?
__noinline int hk_owned_here(const struct hk_claim_key *call)
{
	if (!call)
		return 0;
	struct hk_claim_key key = *call;
	int v4 = is_v4(&call->addr);

	if (has_local(&key))
		return 1;
	key.addr.w[0] = key.addr.w[1] = key.addr.w[3] = 0;
	key.addr.w[2] = v4 ? bpf_htonl(0xffff) : 0;
	if (has_local(&key))
		return 1;
	key.addr.w[2] = 0;
	key.dual = 1;
	return has_local(&key);
}
static __always_inline int overlaps(const struct hk_claim_key *k, const struct hk_claim *c)
{
	int k6 = !is_v4(&k->addr), c6 = !is_v4(&c->addr);

	if (same(&k->addr, &c->addr))
		return 1;
	if (!is_any(&k->addr) && !is_any(&c->addr))
		return 0;
	return (k6 && c6) || ((!k6 || k->dual) && (!c6 || c->dual));
}
// Does the other PU own what overlaps this claim, or this destination of a call?
__noinline int hk_owned_there(const struct hk_claim_key *claim)
{
	if (!claim)
		return 0;
	struct hk_port_key key = {.netns = claim->netns, .port = claim->port, .protocol = claim->protocol};
	struct hk_remote *r = bpf_map_lookup_elem(&remote, &key);
	if (!r)
		return 0;
	for (int i = 0; i < HK_REMOTE_CLAIMS; i++) {
		if (i < r->count && overlaps(claim, &r->claims[i]))
			return 1;
	}
	return 0;
}

// ---- calls ----
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
	struct hk_claim_key call = {.netns = netns, .addr = *dst, .port = bpf_ntohs(c->user_port), .protocol = c->protocol};
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
static __always_inline struct hk_addr dst6(struct bpf_sock_addr *c)
{
	return WORDS(c->user_ip6);
}
static __always_inline void set6(struct bpf_sock_addr *c, const struct hk_addr *a)
{
	WORD(c->user_ip6[0]) = a->w[0];
	WORD(c->user_ip6[1]) = a->w[1];
	WORD(c->user_ip6[2]) = a->w[2];
	WORD(c->user_ip6[3]) = a->w[3];
}

// A socket bound to localhost before connect() cannot leave by the link: the kernel routes no loopback source there, and
// no hook may change a bound address. It stays with this kernel, which refuses, as it would an unowned port. One bound
// to the Pod IP can: the other side's netfilter rules know the way back.
static __always_inline bool source_fits(const struct hk_pod *pod, const struct hk_pair *pair, bool v4, const struct hk_addr *src)
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

// ---- names: a link address shown to a program becomes what it would see on one kernel ----
static __always_inline const struct hk_addr *shown(struct bpf_sock_addr *c, const struct hk_addr *a)
{
	__u64 netns = bpf_get_netns_cookie(c);
	struct hk_pod *pod = bpf_map_lookup_elem(&pods, &netns);
	if (!pod)
		return 0;
	bool v4 = is_v4(a);
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
SEC("cgroup/recvmsg4") int hk_recvmsg4(struct bpf_sock_addr *c) { return name4(c); }
SEC("cgroup/recvmsg6") int hk_recvmsg6(struct bpf_sock_addr *c) { return name6(c); }
SEC("cgroup/getpeername4") int hk_peername4(struct bpf_sock_addr *c) { return name4(c); }
SEC("cgroup/getpeername6") int hk_peername6(struct bpf_sock_addr *c) { return name6(c); }
SEC("cgroup/getsockname4") int hk_sockname4(struct bpf_sock_addr *c) { return name4(c); }
SEC("cgroup/getsockname6") int hk_sockname6(struct bpf_sock_addr *c) { return name6(c); }

// ---- bind ----
static __always_inline int may_bind(struct bpf_sock_addr *c, struct hk_claim_key *key)
{
	key->port = bpf_ntohs(c->user_port);
	key->protocol = c->protocol;
	if (key->port == 0 || !hk_owned_there(key))
		return 1;
	count(HK_STAT_REFUSED);
	emit(key, HK_REFUSED, bpf_ktime_get_ns());
	if (have_set_retval)
		bpf_set_retval(-EADDRINUSE);
	return 0;
}
SEC("cgroup/bind4") int hk_bind4(struct bpf_sock_addr *c)
{
	struct hk_claim_key key = {.netns = bpf_get_netns_cookie(c), .addr = mapped(c->user_ip4)};
	if (!bpf_map_lookup_elem(&pods, &key.netns))
		return 1;
	return may_bind(c, &key);
}
SEC("cgroup/bind6") int hk_bind6(struct bpf_sock_addr *c)
{
	struct hk_claim_key key = {.netns = bpf_get_netns_cookie(c), .addr = dst6(c)};
	struct bpf_sock *sk = c->sk;
	bool v6only = false;

	if (!bpf_map_lookup_elem(&pods, &key.netns) || !sk)
		return 1;
	if (c->protocol == IPPROTO_TCP) {
		struct tcp6_sock *t = bpf_skc_to_tcp6_sock(sk);
		if (t)
			v6only = BPF_CORE_READ_BITFIELD(&t->tcp.inet_conn.icsk_inet.sk.__sk_common, skc_ipv6only);
	} else if (c->protocol == IPPROTO_UDP) {
		struct udp6_sock *u = bpf_skc_to_udp6_sock(sk);
		if (u)
			v6only = BPF_CORE_READ_BITFIELD(&u->udp.inet.sk.__sk_common, skc_ipv6only);
		// post_bind6 cannot look at the option; it cannot change between the two.
		struct hk_socket *s = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (s)
			s->v6only = v6only;
	} else {
		return 1;
	}
	key.dual = is_any(&key.addr) && !is_v4(&key.addr) && !v6only;
	return may_bind(c, &key);
}

// ---- UDP: owned from bind ----
static __always_inline int bound(struct bpf_sock *c, struct hk_claim_key *key)
{
	struct hk_pod *pod = bpf_map_lookup_elem(&pods, &key->netns);
	if (c->protocol != IPPROTO_UDP || !pod)
		return 1;
	struct hk_socket *s = bpf_sk_storage_get(&sockets, c, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return 1;
	unclaim(s);  // bound to port 0, disconnected, bound again
	key->port = c->src_port;
	key->protocol = IPPROTO_UDP;
	key->dual = is_any(&key->addr) && !is_v4(&key->addr) && !s->v6only;
	claim(s, pod, key);
	return 1;
}
SEC("cgroup/post_bind4") int hk_bound4(struct bpf_sock *c)
{
	struct hk_claim_key key = {.netns = bpf_get_netns_cookie(c), .addr = mapped(c->src_ip4)};
	return bound(c, &key);
}
SEC("cgroup/post_bind6") int hk_bound6(struct bpf_sock *c)
{
	struct hk_claim_key key = {.netns = bpf_get_netns_cookie(c)};
	key.addr = WORDS(c->src_ip6);
	return bound(c, &key);
}
SEC("cgroup/sock_release") int hk_release(struct bpf_sock *c)
{
	struct hk_socket *s = bpf_sk_storage_get(&sockets, c, 0, 0);
	if (s)
		unclaim(s);
	return 1;
}

// ---- TCP: owned from listen ----
static __always_inline struct hk_listener_key listener_key(const struct hk_claim_key *key, int meaning)
{
	return (struct hk_listener_key){.netns = key->netns, .port = key->port, .protocol = key->protocol,
					.meaning = meaning, .is_v6 = !is_v4(&key->addr)};
}
SEC("sockops") int hk_sockops(struct bpf_sock_ops *o)
{
	if (o->op != BPF_SOCK_OPS_TCP_LISTEN_CB && o->op != BPF_SOCK_OPS_STATE_CB)
		return 1;
	struct bpf_sock *sk = o->sk;
	if (!sk)
		return 1;
	if (o->op == BPF_SOCK_OPS_STATE_CB) {
		// Accepted sockets inherit the flag that asks for this call; only the end of a listener matters.
		if (o->args[0] != BPF_TCP_LISTEN)
			return 1;
		struct hk_socket *s = bpf_sk_storage_get(&sockets, sk, 0, 0);
		if (s)
			unclaim(s);
		return 1;
	}
	struct hk_claim_key key = {.netns = bpf_get_netns_cookie(o), .port = o->local_port, .protocol = IPPROTO_TCP};
	struct hk_pod *pod = bpf_map_lookup_elem(&pods, &key.netns);
	if (!pod)
		return 1;
	if (o->family == AF_INET) {
		key.addr = mapped(o->local_ip4);
	} else {
		key.addr = WORDS(o->local_ip6);
		struct tcp6_sock *t = bpf_skc_to_tcp6_sock(sk);
		if (t && is_any(&key.addr) && !is_v4(&key.addr))
			key.dual = !BPF_CORE_READ_BITFIELD(&t->tcp.inet_conn.icsk_inet.sk.__sk_common, skc_ipv6only);
	}
	struct hk_socket *s = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return 1;
	unclaim(s);
	// Reachable before it is reported: the other PU must find the socket when it hears of it.
	int meaning = hk_meaning_of(pod, &key.addr);
	if (meaning != HK_NONE) {
		struct hk_listener_key l = listener_key(&key, meaning);
		for (int i = 0; i < HK_LISTENER_SLOTS; i++) {
			l.slot = i;
			if (bpf_sock_hash_update(o, &listeners, &l, BPF_NOEXIST) == 0) {
				s->hashed = 1;
				break;
			}
		}
	}
	claim(s, pod, &key);
	// shutdown(), connect(AF_UNSPEC) and a multipath TCP close never reach sock_release with this socket.
	bpf_sock_ops_cb_flags_set(o, o->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	return 1;
}

// ---- the receiving side ----
// The kernel finds sockets bound to a wildcard by itself. This finds those bound to what the pair stands for, which are
// more specific and so come first, as they would on one kernel.
SEC("sk_lookup") int hk_lookup(struct bpf_sk_lookup *c)
{
	struct hk_addr a;
	if (c->family == AF_INET)
		a = mapped(c->local_ip4);
	else
		a = WORDS(c->local_ip6);
	struct hk_link *link = bpf_map_lookup_elem(&links, &a);
	if (!link)
		return SK_PASS;
	struct hk_listener_key key = {.netns = link->netns, .port = c->local_port, .protocol = c->protocol,
				      .meaning = link->meaning, .is_v6 = c->family != AF_INET};
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

// ---- sockets older than this object, and UDP sockets that no hook may put into the sockhash ----
// Read by heterod inside the Pod's network namespace, which is what these iterators walk. The kernel holds the socket's
// lock meanwhile, so a bind or listen is either complete or not begun.
static __always_inline bool read_claim(struct sock *sk, struct hk_claim_key *key)
{
	struct sock_common *k = &sk->__sk_common;
	key->netns = k->skc_net.net->net_cookie;
	key->port = k->skc_num;
	if (k->skc_family == AF_INET) {
		key->addr = mapped(k->skc_rcv_saddr);
	} else {
		key->addr.w[0] = k->skc_v6_rcv_saddr.in6_u.u6_addr32[0];
		key->addr.w[1] = k->skc_v6_rcv_saddr.in6_u.u6_addr32[1];
		key->addr.w[2] = k->skc_v6_rcv_saddr.in6_u.u6_addr32[2];
		key->addr.w[3] = k->skc_v6_rcv_saddr.in6_u.u6_addr32[3];
		key->dual = is_any(&key->addr) && !is_v4(&key->addr) && !BPF_CORE_READ_BITFIELD(k, skc_ipv6only);
	}
	return key->port != 0;
}
SEC("iter/tcp") int hk_scan_tcp(struct bpf_iter__tcp *c)
{
	struct sock_common *k = c->sk_common;
	struct hk_claim_key key = {.protocol = IPPROTO_TCP};
	if (!k || k->skc_state != BPF_TCP_LISTEN)
		return 0;
	struct tcp_sock *t = bpf_skc_to_tcp_sock(k);
	if (!t || !read_claim(&t->inet_conn.icsk_inet.sk, &key))
		return 0;
	struct hk_pod *pod = bpf_map_lookup_elem(&pods, &key.netns);
	if (!pod)
		return 0;
	struct hk_socket *s = bpf_sk_storage_get(&sockets, t, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return 0;
	int meaning = hk_meaning_of(pod, &key.addr);
	if (meaning != HK_NONE && !s->hashed) {
		struct hk_listener_key l = listener_key(&key, meaning);
		for (int i = 0; i < HK_LISTENER_SLOTS; i++) {
			l.slot = i;
			if (bpf_map_update_elem(&listeners, &l, t, BPF_NOEXIST) == 0) {
				s->hashed = 1;
				break;
			}
		}
	}
	// As at listen; kernels before 6.10 refuse, and then only sock_release tells of the end.
	__u32 flags = 0;
	if (bpf_getsockopt(t, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof flags) == 0) {
		flags |= BPF_SOCK_OPS_STATE_CB_FLAG;
		bpf_setsockopt(t, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS, &flags, sizeof flags);
	}
	if (!s->counted || s->generation != pod->generation)
		claim(s, pod, &key);
	return 0;
}
SEC("iter/udp") int hk_scan_udp(struct bpf_iter__udp *c)
{
	struct udp_sock *u = c->udp_sk;
	struct hk_claim_key key = {.protocol = IPPROTO_UDP};
	if (!u || !read_claim(&u->inet.sk, &key))
		return 0;
	// A port that the kernel chose at the first send is nobody's claim.
	if (!(BPF_CORE_READ_BITFIELD(&u->inet.sk, sk_userlocks) & (SOCK_BINDADDR_LOCK | SOCK_BINDPORT_LOCK)))
		return 0;
	struct hk_pod *pod = bpf_map_lookup_elem(&pods, &key.netns);
	if (!pod)
		return 0;
	struct hk_socket *s = bpf_sk_storage_get(&sockets, u, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return 0;
	int meaning = hk_meaning_of(pod, &key.addr);
	if (meaning != HK_NONE && !s->hashed) {
		struct hk_listener_key l = listener_key(&key, meaning);
		for (int i = 0; i < HK_LISTENER_SLOTS; i++) {
			l.slot = i;
			if (bpf_map_update_elem(&listeners, &l, u, BPF_NOEXIST) == 0) {
				s->hashed = 1;
				break;
			}
		}
	}
	if (!s->counted || s->generation != pod->generation)
		claim(s, pod, &key);
	return 0;
}
