// What heterocri reads back after a crash: its state file, and where a log stands. See tools/fuzz.
#include <cstdlib>

#include "node-agent/cri/log_position.h"
#include "node-agent/cri/pod_table.h"

namespace {

using namespace heterok8s::cri;

void CheckTable(const std::string& bytes) {
  PodTable table("");
  if (!table.FromBytes(bytes).ok()) return;
  runtime::v1::ListContainersResponse list;
  if (!list.ParseFromString(table.ListBytes({}))) abort();
  for (const auto& container : list.containers()) {
    if (container.id().empty() || !table.FindContainer(container.id())) abort();
  }

  PodTable again("");
  if (!again.FromBytes(table.ToBytes()).ok()) abort();
  if (again.epoch() != table.epoch() || again.Removed() != table.Removed()) abort();
  if (again.Containers().size() != static_cast<size_t>(list.containers_size())) abort();

  again.LoseAll(1);
  for (const DpuContainer& container : again.Containers()) {
    if (container.running()) abort();
  }
  if (!again.Replace(again.version(), table.Containers())) abort();
}

void CheckPosition(const std::string& bytes) {
  std::optional<SavedPosition> saved = ParsePosition(bytes);
  if (!saved) return;
  auto again = ParsePosition(PositionBytes(*saved));
  if (!again || again->base != saved->base || again->inode != saved->inode) abort();
  constexpr int64_t kSize = int64_t{1} << 50;
  for (uint64_t inode : {saved->inode, saved->inode + 1}) {
    for (int64_t size : {int64_t{0}, kSize}) (void)BaseOf(saved, inode, size, kSize);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  CheckTable(bytes);
  CheckPosition(bytes);
  return 0;
}
