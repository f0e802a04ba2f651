// Kernel types that have no UAPI view; offsets come from the running kernel's BTF.
#pragma once

#include "node-agent/ports/bpf/maps.h"

#define TCP_BPF_SOCK_OPS_CB_FLAGS 1008	// newer than Debian 12's linux/bpf.h
#define SOCK_BINDADDR_LOCK 4
#define SOCK_BINDPORT_LOCK 8

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
	struct {
		struct net *net;
	} skc_net;
	struct {
		union {
			__u32 u6_addr32[4];
		} in6_u;
	} skc_v6_rcv_saddr;
};
struct sock {
	struct sock_common __sk_common;
	unsigned char sk_userlocks : 4;
};
struct inet_sock {
	struct sock sk;
};
struct inet_connection_sock {
	struct inet_sock icsk_inet;
};
struct tcp_sock {
	struct inet_connection_sock inet_conn;
};
struct udp_sock {
	struct inet_sock inet;
};
struct tcp6_sock {
	struct tcp_sock tcp;
};
struct udp6_sock {
	struct udp_sock udp;
};
struct bpf_iter_meta {
	void *seq;
	__u64 session_id;
};
struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};
struct bpf_iter__udp {
	struct bpf_iter_meta *meta;
	struct udp_sock *udp_sk;
};
#pragma clang attribute pop
