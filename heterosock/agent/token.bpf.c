// Marks both ends of a TCP connection with the same number, whatever NAT lies between them.
//
// A socket of the cgroup that connects gets a random token and carries it in a TCP option of its first SYN. A socket
// that is accepted takes the token from the SYN that its listener kept. Hosts that do not know the option ignore it
// (RFC 9293 3.1), and a SYN without room for 12 more bytes goes without. Where two agents share a kernel, both have
// their program: the first one's token is in the SYN and is the second one's, too.
#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "heterosock/agent/token_layout.h"

#define SOL_TCP 6
#define TCP_SAVE_SYN 27
#define TCPHDR_SYN 0x02
#define TCPHDR_ACK 0x10

char _license[] SEC("license") = "GPL";

struct { __uint(type, BPF_MAP_TYPE_SK_STORAGE); __uint(map_flags, BPF_F_NO_PREALLOC); __type(key, int); __type(value, struct hk_token); } tokens SEC(".maps");

struct option {
	__u8 kind;
	__u8 length;
	__be16 exid;
	__u64 token;
} __attribute__((packed));
_Static_assert(sizeof(struct option) == HK_TOKEN_BYTES, "the option's size is in the SYN");

static __always_inline struct hk_token *token_of(struct bpf_sock_ops *o, __u64 flags)
{
	struct bpf_sock *sk = o->sk;
	return sk ? bpf_sk_storage_get(&tokens, sk, 0, flags) : 0;
}

// A middlebox that drops what it does not know must not keep a socket from connecting: SYNs that are sent again have no
// option, as with the kernel's own experimental ones. They are counted before they are built (__tcp_retransmit_skb()).
static __always_inline bool is_first_syn(struct bpf_sock_ops *o)
{
	return (o->skb_tcp_flags & (TCPHDR_SYN | TCPHDR_ACK)) == TCPHDR_SYN && o->total_retrans == 0;
}

// The flags belong to every program of the socket: only our bit changes.
static __always_inline void write_options(struct bpf_sock_ops *o, bool on)
{
	__u32 flags = o->bpf_sock_ops_cb_flags;
	if (on)
		flags |= BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
	else
		flags &= ~BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
	bpf_sock_ops_cb_flags_set(o, flags);
}

SEC("sockops") int hk_token(struct bpf_sock_ops *o)
{
	struct option option = {.kind = HK_TOKEN_KIND, .length = HK_TOKEN_BYTES, .exid = bpf_htons(HK_TOKEN_EXID)};
	struct hk_token *token;
	int one = 1;

	switch (o->op) {
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		bpf_setsockopt(o, SOL_TCP, TCP_SAVE_SYN, &one, sizeof one);
		break;
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		token = token_of(o, BPF_SK_STORAGE_GET_F_CREATE);
		if (!token)
			break;
		token->value = ((__u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32()) | 1; // not 0
		token->connected = 1;
		write_options(o, true);
		break;
	case BPF_SOCK_OPS_HDR_OPT_LEN_CB:
		if (is_first_syn(o) && token_of(o, 0))
			bpf_reserve_hdr_opt(o, HK_TOKEN_BYTES, 0);
		break;
	case BPF_SOCK_OPS_WRITE_HDR_OPT_CB:
		token = is_first_syn(o) ? token_of(o, 0) : 0;
		if (!token)
			break;
		option.token = token->value;
		if (bpf_store_hdr_opt(o, &option, sizeof option, 0) == 0)
			break;
		option.length = 4; // look for kind and ExID in what is written so far
		if (bpf_load_hdr_opt(o, &option, sizeof option, 0) == sizeof option)
			token->value = option.token;
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		write_options(o, false);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		option.length = 4; // look for kind and ExID
		if (bpf_load_hdr_opt(o, &option, sizeof option, BPF_LOAD_HDR_OPT_TCP_SYN) != sizeof option)
			break;
		token = token_of(o, BPF_SK_STORAGE_GET_F_CREATE);
		if (token) {
			token->value = option.token;
			token->connected = 0;
		}
		break;
	}
	return 1;
}
