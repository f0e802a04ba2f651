// The Admin services of the Node's two heterods, and heterocri's Router, as seen from here.
//
// Purpose: one place that dials, with a deadline, and turns "nobody listens" into an error that says what to do.
// Threading: one call at a time per object. Ownership: owns its channel. Errors: kUnavailable with a hint when the
// daemon does not answer.
//
//   AdminClient host("heterod on the host", endpoints.host_admin);
//   HK_ASSIGN_OR_RETURN(v1::StatusReply status, host.Status());
#pragma once

#include <memory>
#include <string>

#include "common/status/status.h"
#include "proto/heterok8s/v1/admin.grpc.pb.h"
#include "proto/heterok8s/v1/runtime.grpc.pb.h"

namespace heterok8s::ctl {

class AdminClient {
 public:
  AdminClient(std::string what, const std::string& socket);
  absl::StatusOr<v1::StatusReply> Status();
  absl::StatusOr<v1::WhyReply> Why(const std::string& pod);

 private:
  const std::string what_, socket_;
  const std::unique_ptr<v1::Admin::Stub> stub_;
};

// Where heterocri placed the containers of a Pod ("" : of all). kUnimplemented from a runtime that is no heterocri.
absl::StatusOr<v1::PlacementsReply> Placements(const std::string& cri_socket, const std::string& pod_uid);

}  // namespace heterok8s::ctl
