// absl::Status and grpc::Status where the other end is a CRI client or runtime: code and text, no details. Details
// would have to be a google.rpc.Status: grpc-go turns a call whose details it cannot parse into an INTERNAL error.
//
// Threading: pure.
//
//   return ToGrpc(path.status());
#pragma once

#include <grpcpp/support/status.h>

#include "common/status/status.h"

namespace heterok8s::cri {

inline grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), Message(status));
}

inline absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace heterok8s::cri
