// Messages of heterosock/protocol with their descriptors, as a relay passes them on.
//
// Threading: none of its own. Ownership: a Letter has its descriptors until Write() or Discard() closes them; it may be
// moved, and copies share them. Errors: Read() and Write() never block and say false; no other end is -1.
//
//   Letter letter;
//   bool gone = false;
//   if (Read(library, &letter, &gone)) Write(agent, letter);
#pragma once

#include <sys/un.h>

#include <chrono>
#include <string>
#include <vector>

namespace heterok8s::heterosock::behaviour {

using Clock = std::chrono::steady_clock;

struct Letter {
  std::string bytes;
  std::vector<int> descriptors;
  Clock::time_point due;  // not before

  void Discard();
};

// False: nothing there (yet), or, with `gone`, never again.
bool Read(int from, Letter* letter, bool* gone);
// False: there is no room now.
bool Write(int to, Letter& letter);

template <typename T>
Letter LetterOf(const T& message, Clock::time_point due) {
  return {std::string(reinterpret_cast<const char*>(&message), sizeof message), {}, due};
}

sockaddr_un AddressOf(const std::string& path);
// A connection to who listens there; -1: nobody.
int Connect(const std::string& path);

}  // namespace heterok8s::heterosock::behaviour
