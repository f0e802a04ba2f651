#include "node-agent/cri/container_events.h"

#include <algorithm>

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

constexpr std::chrono::seconds kHostTime{2};

const grpc::Status kEnding(grpc::StatusCode::UNAVAILABLE, "heterocri is ending");
const grpc::Status kMissed(grpc::StatusCode::RESOURCE_EXHAUSTED, "more happens on the DPU than can be told");

}  // namespace

ContainerEvents::ContainerEvents(PodTable& table, CriClient& host) : table_(table), host_(host) {
  table_.Observe([this](const ContainerChange& change) { Observe(change); });
  thread_ = std::thread([this] { Loop(); });
}

void ContainerEvents::Stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
  BreakReaders(kEnding);
}

void ContainerEvents::BreakReaders(const grpc::Status& status) {
  std::vector<std::shared_ptr<OutStream>> readers;
  {
    std::lock_guard lock(mutex_);
    readers.swap(readers_);
    waiting_.clear();
    overflow_ = false;
  }
  for (const auto& reader : readers) reader->Break(status);
}

void ContainerEvents::Subscribe(const std::shared_ptr<OutStream>& out) {
  {
    std::lock_guard lock(mutex_);
    if (!stop_) {
      readers_.push_back(out);
      return;
    }
  }
  out->Break(kEnding);
}

void ContainerEvents::Unsubscribe(const std::shared_ptr<OutStream>& out) {
  std::lock_guard lock(mutex_);
  std::erase(readers_, out);
}

void ContainerEvents::Complete(grpc::ByteBuffer* event) const {
  rt::ContainerEventResponse parsed;
  if (!parsed.ParseFromString(BytesOf(*event)) || !parsed.has_pod_sandbox_status()) return;
  std::vector<rt::ContainerStatus> on_dpu = table_.Statuses(parsed.pod_sandbox_status().id());
  if (on_dpu.empty()) return;
  for (rt::ContainerStatus& status : on_dpu) *parsed.add_containers_statuses() = std::move(status);
  *event = ToBuffer(parsed.SerializeAsString());
}

void ContainerEvents::Observe(const ContainerChange& change) {
  auto now = std::chrono::system_clock::now().time_since_epoch();
  std::lock_guard lock(mutex_);
  if (readers_.empty() || overflow_) return;
  overflow_ = waiting_.size() >= kMostWaiting;  // the thread breaks the readers: here the table is locked
  if (!overflow_) waiting_.push_back({change, std::chrono::duration_cast<std::chrono::nanoseconds>(now).count()});
  changed_.notify_all();
}

rt::ContainerEventResponse ContainerEvents::Describe(const Waiting& waiting) {
  const ContainerChange& change = waiting.change;
  rt::ContainerEventResponse event;
  event.set_container_id(change.container_id);
  event.set_container_event_type(change.type);
  event.set_created_at(waiting.at_ns);
  Deadline deadline = In(kHostTime);
  rt::PodSandboxStatusRequest ask;
  ask.set_pod_sandbox_id(change.sandbox_id);
  auto sandbox = host_.Call<rt::PodSandboxStatusResponse>(kPodSandboxStatus, ask, deadline);
  rt::ListContainersRequest list;
  list.mutable_filter()->set_pod_sandbox_id(change.sandbox_id);
  auto containers = host_.Call<rt::ListContainersResponse>(kListContainers, list, deadline);
  // Half a Pod would look as if the other half were gone.
  if (!sandbox.ok() || !containers.ok()) return event;
  std::vector<rt::ContainerStatus> statuses;
  for (const rt::Container& container : containers->containers()) {
    rt::ContainerStatusRequest of;
    of.set_container_id(container.id());
    auto status = host_.Call<rt::ContainerStatusResponse>(kContainerStatus, of, deadline);
    if (status.status().code() == absl::StatusCode::kNotFound) continue;  // removed meanwhile
    if (!status.ok()) return event;
    statuses.push_back(std::move(*status->mutable_status()));
  }
  for (rt::ContainerStatus& status : table_.Statuses(change.sandbox_id)) statuses.push_back(std::move(status));
  *event.mutable_pod_sandbox_status() = std::move(*sandbox->mutable_status());
  for (rt::ContainerStatus& status : statuses) *event.add_containers_statuses() = std::move(status);
  return event;
}

void ContainerEvents::Loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || overflow_ || !waiting_.empty(); });
    if (stop_) return;
    if (overflow_) {
      lock.unlock();
      BreakReaders(kMissed);
      lock.lock();
      continue;
    }
    Waiting next = std::move(waiting_.front());
    waiting_.pop_front();
    lock.unlock();
    grpc::ByteBuffer event = ToBuffer(Describe(next).SerializeAsString());
    lock.lock();
    std::vector<std::shared_ptr<OutStream>> readers = readers_;
    lock.unlock();
    for (const auto& reader : readers) reader->Push(event);
    lock.lock();
  }
}

}  // namespace heterok8s::cri
