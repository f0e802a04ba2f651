// absl::Status across gRPC: same codes, same message, and the payloads (a CNI error code) in the error details.
//
// Threading: pure functions. Errors: none of their own; details that are not ours are ignored.
//
//   return ToGrpc(half.Commit(pod));                                  // server
//   return FromGrpc(stub->Commit(&context, request, &reply));         // client
#pragma once

#include <grpcpp/support/status.h>

#include "common/status/status.h"

namespace heterok8s::rpc {

grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

// True when the other side's handler said this (by ToGrpc), false when the transport did: an UNAVAILABLE of the
// transport leaves open whether the call was executed.
bool IsAnswer(const grpc::Status& status);

}  // namespace heterok8s::rpc
