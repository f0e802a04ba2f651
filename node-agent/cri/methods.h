// What heterocri does with each method of CRI v1.
//
// Purpose: one table. A method that is not in it answers UNIMPLEMENTED: passing a new List to the host alone would make
// the DPU's containers vanish, and kubelet falls back when it is told. methods_test compares the table with the
// published list. Threading: pure.
//
//   if (const Method* method = FindMethod("/runtime.v1.RuntimeService/Exec")) …
#pragma once

#include <string>
#include <string_view>

namespace heterok8s::cri {

enum class Handling {
  kHost,         // relayed to the host's runtime unread
  kHostStream,   // the same, with many answers
  kByContainer,  // relayed unread but for field 1, the container id, to the PU that has it
  kHostOnly,     // as kByContainer, but refused by name for a container on the DPU
  kSpecial,      // the router has code for it
  kRefused,      // known, and not served; kubelet does without it
};

struct Method {
  std::string_view path;
  Handling handling;
  std::string_view refusal = {};  // kHostOnly, kRefused: why, for whoever reads the error
};

const Method* FindMethod(const std::string& path);

// All of them, for the test and for documentation.
struct MethodRange {
  const Method* first;
  const Method* last;
  const Method* begin() const { return first; }
  const Method* end() const { return last; }
};
MethodRange AllMethods();

}  // namespace heterok8s::cri
