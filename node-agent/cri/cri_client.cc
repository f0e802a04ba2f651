#include "node-agent/cri/cri_client.h"

#include <future>

#include "node-agent/cri/grpc_status.h"

namespace heterok8s::cri {

absl::StatusOr<grpc::ByteBuffer> CriClient::CallBytes(const std::string& method, const grpc::ByteBuffer& request,
                                                      Deadline deadline, const std::shared_ptr<cri::Call>& caller) {
  auto context = std::make_shared<grpc::ClientContext>();
  context->set_deadline(deadline);
  if (caller) {
    caller->OnCancel([weak = std::weak_ptr<grpc::ClientContext>(context)] {
      if (auto alive = weak.lock()) alive->TryCancel();
    });
  }
  grpc::ByteBuffer response;
  std::promise<grpc::Status> done;
  stub_.UnaryCall(context.get(), method, {}, &request, &response,
                  [&done](grpc::Status status) { done.set_value(std::move(status)); });
  grpc::Status status = done.get_future().get();
  if (!status.ok()) return FromGrpc(status);
  return response;
}

}  // namespace heterok8s::cri
