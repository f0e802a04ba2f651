#include "node-agent/peer/lease_service.h"

#include <algorithm>

namespace heterok8s::peer {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kUsualPause{1000}, kShortestPause{50};

}  // namespace

v1::LeaseWord ToProto(const attach::LeaseState& state) {
  v1::LeaseWord word;
  word.set_state(state.valid ? v1::LeaseWord::ALIVE : state.decided ? v1::LeaseWord::LOST : v1::LeaseWord::UNKNOWN);
  word.set_age_ms(state.age ? state.age->count() : -1);
  word.set_left_ms(state.left.count());
  word.set_peer_epoch(state.peer_epoch);
  word.set_peer_boot_id(state.peer_boot_id);
  if (!state.valid) word.set_reason(state.last_error);
  return word;
}

void LeaseService::Stop() {
  stopping_ = true;
  lease_.WakeWaiters();
}

grpc::Status LeaseService::Watch(grpc::ServerContext* context, const v1::WatchLeaseRequest* request,
                                 grpc::ServerWriter<v1::LeaseWord>* writer) {
  milliseconds pause(request->at_least_every_ms());
  if (pause.count() == 0) pause = kUsualPause;
  pause = std::clamp(pause, kShortestPause, milliseconds(60000));
  uint64_t seen = 0;
  while (!stopping_ && !context->IsCancelled()) {
    const attach::LeaseState state = lease_.state();
    if (!writer->Write(ToProto(state))) break;
    // Also at the moment when the lease ends, of which no heartbeat tells.
    const milliseconds wait = state.left.count() > 0 ? std::min(pause, state.left) : pause;
    lease_.WaitForNews(&seen, Lease::Clock::now() + wait);
  }
  return grpc::Status(grpc::StatusCode::UNAVAILABLE, stopping_ ? "heterod ends" : "the reader has gone");
}

}  // namespace heterok8s::peer
