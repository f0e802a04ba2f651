// Port keys in the order in which they came, each once.
//
// Threading: not thread-safe. Errors: none; PopFront() of an empty one is a bug.
//
//   KeyQueue queue;
//   queue.Push(key);   // keeps the place it has
//   while (!queue.empty()) Tell(queue.PopFront());
#pragma once

#include <cstdint>
#include <map>

#include "node-agent/ports/ports.h"

namespace heterok8s::peer {

class KeyQueue {
 public:
  void Push(const ports::PortKey& key) {
    if (places_.try_emplace(key, next_).second) keys_[next_++] = key;
  }
  void Erase(const ports::PortKey& key) {
    auto place = places_.find(key);
    if (place == places_.end()) return;
    keys_.erase(place->second);
    places_.erase(place);
  }
  ports::PortKey PopFront() {
    auto front = keys_.begin();
    const ports::PortKey key = front->second;
    places_.erase(key);
    keys_.erase(front);
    return key;
  }
  void Clear() {
    keys_.clear();
    places_.clear();
  }
  bool empty() const { return keys_.empty(); }

 private:
  uint64_t next_ = 0;
  std::map<uint64_t, ports::PortKey> keys_;
  std::map<ports::PortKey, uint64_t> places_;
};

}  // namespace heterok8s::peer
