#include "heteroctl/admin_client.h"

#include <fmt/format.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>

#include "common/rpc/status.h"
#include "heteroctl/endpoints.h"
#include "heteroctl/output.h"

namespace heterok8s::ctl {
namespace {

constexpr std::chrono::seconds kDeadline{5};

std::shared_ptr<grpc::Channel> Dial(const std::string& socket) {
  return grpc::CreateChannel(GrpcTarget(socket), grpc::InsecureChannelCredentials());
}

void SetDeadline(grpc::ClientContext& context) { context.set_deadline(std::chrono::system_clock::now() + kDeadline); }

// An answer stays as it is; silence becomes "WHAT does not answer on SOCKET".
absl::Status Explain(const grpc::Status& status, const std::string& what, const std::string& socket) {
  if (rpc::IsAnswer(status) || (status.error_code() != grpc::StatusCode::UNAVAILABLE &&
                                status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED)) {
    return rpc::FromGrpc(status);
  }
  return WithHint(
      absl::UnavailableError(fmt::format("{} does not answer on '{}'", what, socket)),
      "check that it runs, or say where it listens (--lab NAME, --host-socket, --dpu-socket, --cri-socket)");
}

}  // namespace

AdminClient::AdminClient(std::string what, const std::string& socket)
    : what_(std::move(what)), socket_(socket), stub_(v1::Admin::NewStub(Dial(socket))) {}

absl::StatusOr<v1::StatusReply> AdminClient::Status() {
  grpc::ClientContext context;
  SetDeadline(context);
  v1::StatusReply reply;
  const grpc::Status status = stub_->Status(&context, v1::StatusRequest(), &reply);
  if (!status.ok()) return Explain(status, what_, socket_);
  return reply;
}

absl::StatusOr<v1::WhyReply> AdminClient::Why(const std::string& pod) {
  grpc::ClientContext context;
  SetDeadline(context);
  v1::WhyRequest request;
  request.set_pod(pod);
  v1::WhyReply reply;
  const grpc::Status status = stub_->Why(&context, request, &reply);
  if (!status.ok()) return Explain(status, what_, socket_);
  return reply;
}

absl::StatusOr<v1::PlacementsReply> Placements(const std::string& cri_socket, const std::string& pod_uid) {
  grpc::ClientContext context;
  SetDeadline(context);
  v1::PlacementsRequest request;
  request.set_pod_uid(pod_uid);
  v1::PlacementsReply reply;
  const grpc::Status status = v1::Router::NewStub(Dial(cri_socket))->Placements(&context, request, &reply);
  if (!status.ok()) return Explain(status, "heterocri", cri_socket);
  return reply;
}

}  // namespace heterok8s::ctl
