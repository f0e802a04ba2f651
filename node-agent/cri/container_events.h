// What GetContainerEvents tells of the containers on the DPU.
//
// Purpose: kubelet may learn of starts and ends by events instead of asking every second. The host's runtime has a
// stream of its own; the DPU's half comes from the table, where a container's start, end, loss and removal are seen
// whoever caused them. So events agree with what List shows, a DPU that is away is silent and blocks nothing, and one
// that returns goes on without anybody asking again. An event carries the state of its whole Pod, and kubelet believes
// it: each has the containers of both PUs. Threading: thread-safe. One thread asks the host's runtime for the Pod, with
// a deadline, and passes events on in order. Ownership: borrows table and host. Errors: an event whose Pod is gone has
// no Pod in it, as containerd's. When the host's runtime is slower than what happens and more than kMostWaiting events
// wait, every reader's stream ends with RESOURCE_EXHAUSTED: it lists and asks again, where a hole would go unseen.
//
//   ContainerEvents events(table, host);     // before the table changes
//   events.Subscribe(out);
//   events.Stop();                           // asks all streams to end
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "node-agent/cri/cri_client.h"
#include "node-agent/cri/out_stream.h"
#include "node-agent/cri/pod_table.h"

namespace heterok8s::cri {

class ContainerEvents {
 public:
  // As many as an OutStream holds: more than these would end every reader anyhow.
  static constexpr size_t kMostWaiting = OutStream::kMostWaiting;

  ContainerEvents(PodTable& table, CriClient& host);
  ~ContainerEvents() { Stop(); }
  void Stop();

  // Until Unsubscribe, or Stop, which breaks it.
  void Subscribe(const std::shared_ptr<OutStream>& out);
  void Unsubscribe(const std::shared_ptr<OutStream>& out);
  // One event of the host's runtime, with the DPU's containers of its Pod.
  void Complete(grpc::ByteBuffer* event) const;

 private:
  struct Waiting {
    ContainerChange change;
    int64_t at_ns;
  };
  void Observe(const ContainerChange& change);
  void Loop();
  void BreakReaders(const grpc::Status& status);
  runtime::v1::ContainerEventResponse Describe(const Waiting& waiting);

  PodTable& table_;
  CriClient& host_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  bool overflow_ = false;  // the readers have missed an event, and are not told of any other
  std::deque<Waiting> waiting_;
  std::vector<std::shared_ptr<OutStream>> readers_;
  std::thread thread_;
};

}  // namespace heterok8s::cri
