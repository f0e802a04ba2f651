#include "heterosock/epoll/pool.h"

namespace heterok8s::heterosock {

constinit Item Pool::items_[Pool::kItems] = {};
constinit Instance Pool::instances_[Pool::kInstances] = {};
constinit SharedLock Pool::lock_;
constinit uint32_t Pool::free_ = kNone;
constinit uint32_t Pool::fresh_ = 1;
constinit uint64_t Pool::secret_ = 0;

namespace {
constexpr int kSecretShift = 24;
constexpr uint64_t kLow = (uint64_t{1} << kSecretShift) - 1;
constexpr uint32_t kGenerations = 64;  // 17 bits of index, 6 of generation, 1 for the bell
}  // namespace

uint32_t Pool::Take() {
  if (secret_ == 0) {
    uint64_t random = 0;
    if (Syscall(SYS_getrandom, reinterpret_cast<long>(&random), sizeof random, 0) != sizeof random)
      random = Cycles() * 0x9e3779b97f4a7c15;
    secret_ = random >> kSecretShift | uint64_t{1} << 39;
  }
  uint32_t index = free_;
  if (index != kNone) {
    free_ = items_[index].next_of_slot;
  } else if (fresh_ < kItems) {
    index = fresh_++;
  } else {
    return kNone;
  }
  const uint8_t generation = static_cast<uint8_t>((items_[index].generation + 1) % kGenerations);
  items_[index] = Item();
  items_[index].generation = generation;
  return index;
}

void Pool::Give(uint32_t index) {
  const uint8_t generation = items_[index].generation;
  items_[index] = Item();
  items_[index].generation = static_cast<uint8_t>((generation + 1) % kGenerations);
  items_[index].next_of_slot = free_;
  free_ = index;
}

uint64_t Pool::Cookie(uint32_t index, bool bell) {
  return secret_ << kSecretShift | uint64_t{items_[index].generation} << 18 | uint64_t{index} << 1 | (bell ? 1 : 0);
}

uint32_t Pool::FromCookie(uint64_t data, bool* bell, bool* stale) {
  *stale = false;
  if (secret_ == 0 || data >> kSecretShift != secret_) return kNone;
  const uint64_t low = data & kLow;
  const uint32_t index = static_cast<uint32_t>(low >> 1 & (kItems - 1));
  *bell = (low & 1) != 0;
  *stale = items_[index].generation != low >> 18 || items_[index].instance == 0;
  return index;
}

}  // namespace heterok8s::heterosock
