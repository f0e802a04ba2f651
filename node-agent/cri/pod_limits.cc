#include "node-agent/cri/pod_limits.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <algorithm>

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

// Of containers as of Pods: what is not said, -1, and the kernel's own "no limit" of cgroup v1 are all none.
constexpr int64_t kNoLimit = int64_t{1} << 62;
int64_t Known(int64_t value) { return value <= 0 || value >= kNoLimit ? 0 : value; }

int64_t Memory(const rt::LinuxContainerResources& resources) { return Known(resources.memory_limit_in_bytes()); }
int64_t Shares(const rt::LinuxContainerResources& resources) { return Known(resources.cpu_shares()); }
int64_t Quota(const rt::LinuxContainerResources& resources) {
  const int64_t quota = Known(resources.cpu_quota()), period = resources.cpu_period();
  if (period <= 0 || period == kQuotaPeriod) return quota;
  return static_cast<int64_t>(static_cast<__int128>(quota) * kQuotaPeriod / period);
}

// No less than the largest container: cgroup v1 refuses a container more time than its parent has, and a Pod's sum may
// be older than a container's update.
int64_t Bounded(const std::vector<rt::LinuxContainerResources>& containers, const rt::LinuxContainerResources& pod,
                int64_t (*value)(const rt::LinuxContainerResources&)) {
  int64_t sum = 0, largest = 0;
  for (const rt::LinuxContainerResources& container : containers) {
    const int64_t one = value(container);
    if (one == 0) return 0;
    sum = std::min(sum + one, kNoLimit - 1);
    largest = std::max(largest, one);
  }
  return value(pod) == 0 ? sum : std::min(sum, std::max(value(pod), largest));
}

int64_t WiderOf(int64_t one, int64_t other) { return one == 0 || other == 0 ? 0 : std::max(one, other); }

}  // namespace

PodLimits LimitsOf(const std::vector<rt::LinuxContainerResources>& containers, const rt::LinuxContainerResources& pod) {
  return {.cpu_quota = Bounded(containers, pod, Quota),
          .cpu_shares = Bounded(containers, pod, Shares),
          .memory_bytes = Bounded(containers, pod, Memory)};
}

PodLimits Wider(const PodLimits& one, const PodLimits& other) {
  return {.cpu_quota = WiderOf(one.cpu_quota, other.cpu_quota),
          .cpu_shares = WiderOf(one.cpu_shares, other.cpu_shares),
          .memory_bytes = WiderOf(one.memory_bytes, other.memory_bytes)};
}

rt::LinuxContainerResources LimitsAlone(const rt::LinuxContainerResources& resources) {
  rt::LinuxContainerResources limits;
  limits.set_cpu_period(resources.cpu_period());
  limits.set_cpu_quota(resources.cpu_quota());
  limits.set_cpu_shares(resources.cpu_shares());
  limits.set_memory_limit_in_bytes(resources.memory_limit_in_bytes());
  return limits;
}

rt::LinuxContainerResources Updated(const rt::LinuxContainerResources& now, const rt::LinuxContainerResources& update) {
  rt::LinuxContainerResources updated = LimitsAlone(now);
  updated.MergeFrom(LimitsAlone(update));  // proto3 merges what is not zero
  return updated;
}

std::string ResourcesText(const rt::LinuxContainerResources& resources) {
  google::protobuf::TextFormat::Printer printer;
  printer.SetSingleLineMode(true);
  std::string text;
  printer.PrintToString(LimitsAlone(resources), &text);
  if (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

rt::LinuxContainerResources ResourcesOf(const std::string& text) {
  struct Silent final : google::protobuf::io::ErrorCollector {
    void AddError(int, google::protobuf::io::ColumnNumber, const std::string&) override {}
  } silent;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&silent);
  rt::LinuxContainerResources resources;
  if (!parser.ParseFromString(text, &resources)) resources.Clear();
  return resources;
}

bool NamesPod(const std::string& cgroup, std::string uid) {
  if (uid.empty()) return false;
  const std::string last = cgroup.substr(cgroup.rfind('/') + 1);
  if (last.find(uid) != std::string::npos) return true;
  std::replace(uid.begin(), uid.end(), '-', '_');
  return last.ends_with(".slice") && last.find(uid) != std::string::npos;
}

}  // namespace heterok8s::cri
