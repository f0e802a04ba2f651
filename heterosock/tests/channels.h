// The channels of this process's connections that have moved, for tests that play a peer which keeps no rules.
//
// Threading: any. Ownership: the memory is the library's, for as long as the connection is open.
//
//   for (const Mapping& each : Channels()) Mine(each).sender.tail.store(7);
#pragma once

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "heterosock/layout/channel.h"

namespace heterok8s::heterosock::behaviour {

struct Mapping {
  char* at;
  size_t size;
};

// The writable shared memory of this process that is a channel of the library.
inline std::vector<Mapping> Channels() {
  std::vector<Mapping> found;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find("memfd:") == std::string::npos || line.find("rw-s") == std::string::npos ||
        line.find("hk-stage") != std::string::npos)
      continue;
    uintptr_t from = 0, to = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx", &from, &to) != 2 || to - from < sizeof(layout::ChannelPage)) continue;
    auto* header = reinterpret_cast<layout::ChannelHeader*>(from);
    if (header->magic == layout::kChannelMagic) found.push_back({reinterpret_cast<char*>(from), to - from});
  }
  return found;
}

inline layout::ChannelPage& Page(const Mapping& mapping) { return *reinterpret_cast<layout::ChannelPage*>(mapping.at); }

// This process's lines, or the other end's: either may be side 0.
inline layout::SideLines& Mine(const Mapping& mapping, bool mine = true) {
  const bool first = Page(mapping).side[0].counters.pid.load() == static_cast<uint32_t>(getpid());
  return Page(mapping).side[first == mine ? 0 : 1];
}

}  // namespace heterok8s::heterosock::behaviour
