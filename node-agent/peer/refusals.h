// How many calls were refused because of who called.
//
// Purpose: a number beside the log lines, for alerts. Only calls that reached us count; a stranger without a
// certificate of our authority ends in the handshake (common/tls/grpc_log.h).
// Threading: thread-safe. Ownership: outlives the servers that count in it. Errors: none.
//
//   Refusals refusals;
//   grpc::Status status = refusals.Counted(tls::RequirePeer(context, node, {role}));
#pragma once

#include <grpcpp/support/status.h>

#include <atomic>
#include <cstdint>

namespace heterok8s::peer {

class Refusals {
 public:
  grpc::Status Counted(grpc::Status verdict) {
    if (verdict.error_code() == grpc::StatusCode::UNAUTHENTICATED) ++no_identity_;
    if (verdict.error_code() == grpc::StatusCode::PERMISSION_DENIED) ++not_allowed_;
    return verdict;
  }

  uint64_t no_identity() const { return no_identity_; }  // a certificate of our authority that names nobody
  uint64_t not_allowed() const { return not_allowed_; }  // of another Node, or of a role that may not make this call

 private:
  std::atomic<uint64_t> no_identity_{0}, not_allowed_{0};
};

}  // namespace heterok8s::peer
