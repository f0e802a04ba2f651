// The messages of proto/heterok8s/v1/peer.proto as attach's and ports' values, and back.
//
// Threading: pure functions. Errors: kInvalidArgument that names the field; a peer's text is never trusted to parse.
//
//   HK_ASSIGN_OR_RETURN(attach::PrepareRequest request, FromProto(message));
#pragma once

#include "node-agent/attach/peer.h"
#include "node-agent/peer/lease.h"
#include "node-agent/ports/ports.h"
#include "proto/heterok8s/v1/peer.pb.h"

namespace heterok8s::peer {

v1::PrepareRequest ToProto(const attach::PrepareRequest& request);
absl::StatusOr<attach::PrepareRequest> FromProto(const v1::PrepareRequest& message);
v1::PrepareReply ToProto(const attach::PrepareReply& reply);
attach::PrepareReply FromProto(const v1::PrepareReply& message);

v1::PodGeneration ToProto(const attach::PodGeneration& pod);
attach::PodGeneration FromProto(const v1::PodGeneration& message);
v1::SyncRequest ToProto(const attach::SyncRequest& request);
attach::SyncRequest FromProto(const v1::SyncRequest& message);
v1::SyncReply ToProto(const attach::SyncReply& reply);
attach::SyncReply FromProto(const v1::SyncReply& message);

v1::ReserveRequest ToProto(const attach::ReserveRequest& request);
attach::ReserveRequest FromProto(const v1::ReserveRequest& message);
v1::ReserveReply ToProto(const attach::ReserveReply& reply);
absl::StatusOr<attach::ReserveReply> FromProto(const v1::ReserveReply& message);

v1::Halves ToProto(const std::vector<attach::PodGeneration>& halves);
Heartbeat FromProto(const v1::HeartbeatRequest& message);
Heartbeat FromProto(const v1::HeartbeatReply& message);

v1::PortKey ToProto(const ports::PortKey& key);
absl::StatusOr<ports::PortKey> FromProto(const v1::PortKey& message);

}  // namespace heterok8s::peer
