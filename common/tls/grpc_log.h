// gRPC's log in ours, and how many TLS handshakes have failed by it.
//
// Purpose: whoever has no certificate of our authority, or speaks no TLS at all, ends in the handshake, before any code
// of ours hears of him; gRPC 1.51 tells of it in its log alone. So that is where he is counted.
// Threading: TakeGrpcLog once, before gRPC is used; the count is thread-safe. Ownership: the log and the count are the
// process's: every server and every client in it. Errors: none.
//
//   tls::TakeGrpcLog();
//   samples.Counter("heterod_refused_calls_total", "", tls::FailedHandshakes(), {{"reason", "handshake"}});
#pragma once

#include <cstdint>

namespace heterok8s::tls {

// gRPC's errors become warnings of spdlog, the rest debug lines. Of failed handshakes at most one a second is written:
// a stranger may try as often as it likes.
void TakeGrpcLog();

// Since TakeGrpcLog. A handshake of ours as a client, refused by us, counts as well.
uint64_t FailedHandshakes();

}  // namespace heterok8s::tls
