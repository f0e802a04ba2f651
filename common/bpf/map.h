// Typed access to a BPF map from this side.
//
// Threading: thread-safe, as the kernel's maps are. Ownership: borrows the descriptor.
// Errors: kNotFound, kAlreadyExists, kResourceExhausted (the map is full) as Status with the map's name.
//
//   Map<uint64_t, hk_pod> pods(bpf_object__find_map_by_name(object, "pods"));
//   HK_RETURN_IF_ERROR(pods.Put(cookie, pod));
#pragma once

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>

#include <cerrno>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/status/status.h"

namespace heterok8s::bpf {

template <typename Key, typename Value>
class Map {
 public:
  Map() = default;
  explicit Map(const bpf_map* map) : fd_(bpf_map__fd(map)), name_(bpf_map__name(map)) {}

  std::optional<Value> Get(const Key& key) const {
    Value value{};
    if (bpf_map_lookup_elem(fd_, &key, &value) != 0) return std::nullopt;
    return value;
  }
  absl::Status Put(const Key& key, const Value& value, uint64_t flags = BPF_ANY) const {
    if (bpf_map_update_elem(fd_, &key, &value, flags) == 0) return absl::OkStatus();
    if (errno == E2BIG) return absl::ResourceExhaustedError(fmt::format("BPF map '{}' is full", name_));
    return ErrnoToStatus(errno, fmt::format("update BPF map '{}'", name_));
  }
  // OK when there is no such key.
  absl::Status Erase(const Key& key) const {
    if (bpf_map_delete_elem(fd_, &key) == 0 || errno == ENOENT) return absl::OkStatus();
    return ErrnoToStatus(errno, fmt::format("delete from BPF map '{}'", name_));
  }
  // Removes the key and returns what it held at that moment.
  std::optional<Value> Take(const Key& key) const {
    Value value{};
    if (bpf_map_lookup_and_delete_elem(fd_, &key, &value) != 0) return std::nullopt;
    return value;
  }
  // A walk, not a snapshot: entries that come or go meanwhile may be missed or, rarely, seen twice. Hash maps only.
  // `on_batch` is called with a vector of pairs, some hundred at a time. When it fails the walk has not seen all.
  template <typename OnBatch>
  absl::Status Walk(OnBatch on_batch) const {
    constexpr __u32 kBatch = 512;  // more than one bucket ever holds, or the kernel says ENOSPC
    std::vector<std::pair<Key, Value>> batch;
    std::vector<Key> keys(kBatch);
    std::vector<Value> values(kBatch);
    __u32 from = 0, next = 0;
    for (bool first = true;; first = false, from = next) {
      __u32 count = kBatch;
      int failed =
          bpf_map_lookup_batch(fd_, first ? nullptr : &from, &next, keys.data(), values.data(), &count, nullptr);
      const bool was_last = failed != 0 && errno == ENOENT;
      if (failed != 0 && !was_last) return ErrnoToStatus(errno, fmt::format("walk through BPF map '{}'", name_));
      batch.clear();
      for (__u32 i = 0; i < count; ++i) batch.emplace_back(keys[i], values[i]);
      on_batch(batch);
      if (was_last) return absl::OkStatus();
    }
  }
  // All of a walk in one; after a failure what it has seen.
  std::vector<std::pair<Key, Value>> All() const {
    std::vector<std::pair<Key, Value>> all;
    (void)Walk([&](const auto& batch) { all.insert(all.end(), batch.begin(), batch.end()); });
    return all;
  }
  int fd() const { return fd_; }

 private:
  int fd_ = -1;
  std::string name_;
};

}  // namespace heterok8s::bpf
