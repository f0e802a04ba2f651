#include "node-agent/cri/cri_client.h"

#include <future>

#include "node-agent/cri/grpc_status.h"

namespace heterok8s::cri {

absl::StatusOr<grpc::ByteBuffer> CriClient::CallBytes(const std::string& method, const grpc::ByteBuffer& request,
                                                      Deadline deadline) {
  grpc::ClientContext context;
  context.set_deadline(deadline);
  grpc::ByteBuffer response;
  std::promise<grpc::Status> done;
  stub_.UnaryCall(&context, method, {}, &request, &response,
                  [&done](grpc::Status status) { done.set_value(std::move(status)); });
  grpc::Status status = done.get_future().get();
  if (!status.ok()) return FromGrpc(status);
  return response;
}

}  // namespace heterok8s::cri
