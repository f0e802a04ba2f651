// What the BPF program and the agent share. C and C++.
//
// Purpose: the one definition of the TCP option by which two ends find each other, and of the map's value.
// Threading, ownership, errors: none; these are constants and a layout.
//
//   struct hk_token *mine = bpf_sk_storage_get(&tokens, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
#pragma once

// TCP option of a SYN: kind 254 (RFC 3692-style experiment), length 12, this ExID (RFC 6994), then the token.
#define HK_TOKEN_KIND 254
#define HK_TOKEN_EXID 0x4853
#define HK_TOKEN_BYTES 12

// One socket's entry in the map `tokens` (socket storage: it ends with the socket).
struct hk_token {
  unsigned long long value;
  unsigned int connected;  // 1: this end sent the SYN
  unsigned int reserved;
};
